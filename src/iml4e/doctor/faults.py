"""Faults that `iml4e doctor` names: what people see, what it means, and the next step.

docs/troubleshooting.md has the same table (`python -m iml4e.doctor.faults` prints it), and a test compares both.
"""

import re
from dataclasses import dataclass

UPGRADE = "helm upgrade {release} charts/iml4e -n {namespace} --reset-then-reuse-values"


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    symptom: str
    """What people see."""
    meaning: str
    """What it means."""
    cure: str
    """The next step, with names in braces."""


@dataclass(frozen=True)
class Finding:
    """A fault that was found."""

    fault: str
    """Name of its row."""
    about: str
    """Object that has it, such as `Deployment iml4e-mlflow`."""
    problem: str
    """What is wrong, with the reason."""
    cure: str
    """The next step."""

    def __str__(self) -> str:
        return f"{self.about}: {self.problem} → {self.cure}"


GROUPS: dict[str, dict[str, Fault]] = {
    "Cluster": {
        "node-not-ready": Fault(
            "A node is `NotReady`; its pods end or stay `Terminating`",
            "the node's kubelet does not answer, or reports that it cannot run pods",
            "kubectl describe node {name}; then restart kubelet on that node",
        ),
        "node-pressure": Fault(
            "Pods are evicted, or a node reports a condition such as `DiskPressure`",
            "the node lacks disk, memory or processes, or a node check found damage",
            "kubectl describe node {name}; then free what it lacks",
        ),
        "node-cordoned": Fault(
            "Pods stay `Pending` after a node was drained",
            "the node takes no new pods",
            "kubectl uncordon {name}",
        ),
        "node-disk": Fault(
            "Pods are evicted soon, images are pulled again",
            "the node's disk is almost full; volumes that are folders of the node fill with it",
            "kubectl describe node {name}; then delete files or images on that node, or give it a larger disk",
        ),
        "namespace-deleted": Fault(
            "`kubectl delete namespace` does not end; `unable to create new content in namespace … because it is being terminated`",
            "finalizers wait for a controller that ended with the namespace, and its webhooks refuse every change",
            "scripts/purge --release {release} --namespace {namespace}; the data went with the namespace",
        ),
        "dns": Fault(
            "Names such as `iml4e-minio.iml4e.svc` are unknown to all pods",
            "the cluster's DNS has no ready pod",
            "kubectl -n kube-system get pods -l k8s-app=kube-dns; then kubectl -n kube-system rollout restart deployment coredns",
        ),
        "clock": Fault(
            "S3 answers `RequestTimeTooSkewed`, tokens and certificates are not valid yet",
            "the clocks of nodes or of this machine differ",
            "set the clock by NTP there, for example timedatectl set-ntp true",
        ),
        "webhook-away": Fault(
            "`failed calling webhook …: connection refused` or `no endpoints available`",
            "no ready pod serves a webhook that the API server must ask",
            "kubectl -n {other} get pods,endpointslices; then start the pods of service {name}",
        ),
        "webhook-ca": Fault(
            "`failed calling webhook …: x509: certificate signed by unknown authority`",
            "the webhook's configuration trusts another authority than the one that signed its certificate, or names another host",
            UPGRADE + ", whose Job writes the authority anew; another program's webhook: kubectl describe {object}",
        ),
        "webhook-certificate": Fault(
            "`failed calling webhook …: x509: certificate has expired`",
            "the webhook's certificate ended, or ends within 14 days",
            "kubectl -n {other} delete secret {name}; then " + UPGRADE + " makes it anew, and kubectl -n {other} rollout restart deployment",
        ),
        "certificate-expired": Fault(
            "Browsers refuse the page, or `x509: certificate has expired`",
            "a certificate is past its last day, or before its first",
            "renew Secret {name}: kubectl -n {other} create secret tls {name} --cert=tls.crt --key=tls.key"
            " --dry-run=client -o yaml | kubectl apply -f -",
        ),
        "certificate-soon": Fault(
            "Nothing yet",
            "a certificate ends within 14 days",
            "renew Secret {name} before: kubectl -n {other} create secret tls {name} --cert=tls.crt --key=tls.key"
            " --dry-run=client -o yaml | kubectl apply -f -",
        ),
        "certificate-name": Fault(
            "Browsers warn of another site, or `certificate is not valid for any names`",
            "a certificate is for other host names than the one that is asked",
            "put a certificate for {host} into Secret {name} of namespace {other}",
        ),
    },
    "Release": {
        "helm-pending": Fault(
            "`another operation (install/upgrade/rollback) is in progress`",
            "helm was ended in the middle of its work",
            "helm rollback {release} {revision} -n {namespace}",
        ),
        "helm-failed": Fault(
            "`helm list` shows `failed`",
            "the last upgrade did not finish; old and new objects may be mixed",
            "correct what helm said, then " + UPGRADE,
        ),
        "crd-missing": Fault(
            "`no matches for kind …`, `the server doesn't have a resource type`",
            "the CustomResourceDefinition of a kind is not installed; helm installs CRDs only once",
            "kubectl apply --server-side -f {crds}",
        ),
        "object-missing": Fault(
            "A part lacks its ConfigMap, Service, service account or rights",
            "an object of the release was deleted",
            UPGRADE,
        ),
        "reference-missing": Fault(
            "Pods run until their next restart, then `CreateContainerConfigError` or `FailedMount`",
            "a Secret, ConfigMap or volume claim that a pod names does not exist, or lacks a key",
            "create it, or " + UPGRADE + ", which makes generated Secrets",
        ),
        "secret-unread": Fault(
            "A password or key was changed in a Secret, and pods go on with the former one: logins are refused, or will be",
            "a container reads a Secret into its environment when it starts, and the Secret was changed since",
            "kubectl -n {namespace} rollout restart {object}",
        ),
        "scaled-to-zero": Fault(
            "A part is gone: 503, connection refused",
            "somebody scaled the part to 0 replicas",
            "kubectl -n {namespace} scale {object} --replicas=1",
        ),
    },
    "Pods": {
        "image": Fault(
            "`ImagePullBackOff`, `ErrImagePull`",
            "the registry does not have that image, does not answer, or asks for a pull secret",
            "check the image's value (docs/values.md), global.imageRegistry and global.imagePullSecrets; kubectl -n {namespace} describe pod {pod}",
        ),
        "image-name": Fault(
            "`InvalidImageName`",
            "the name of the image is not one",
            "correct the image's value (docs/values.md); kubectl -n {namespace} describe pod {pod}",
        ),
        "container": Fault(
            "`CreateContainerConfigError`, `CreateContainerError`",
            "a Secret, a ConfigMap or a key in one is missing, or the image's user is not allowed",
            "create what is missing, or " + UPGRADE,
        ),
        "mount": Fault(
            "`ContainerCreating` for minutes, event `FailedMount`",
            "a volume's Secret, ConfigMap or disk is missing or in use elsewhere",
            "create what is missing, or " + UPGRADE + "; kubectl -n {namespace} describe pod {pod}",
        ),
        "start": Fault(
            "`RunContainerError`, `executable file not found`",
            "the image lacks the program that the container starts",
            "check the image's value (docs/values.md); kubectl -n {namespace} describe pod {pod}",
        ),
        "memory": Fault(
            "`OOMKilled`, exit code 137",
            "a container used more memory than its limit",
            "raise the part's resources.limits.memory; kubectl -n {namespace} logs {pod} --previous",
        ),
        "exit": Fault(
            "`CrashLoopBackOff`, `Error`",
            "the program ends by itself; its log says why",
            "kubectl -n {namespace} logs {pod} -c {container} --previous",
        ),
        "signal": Fault(
            "`CrashLoopBackOff`, exit code above 128",
            "the program is ended by a signal: a failing liveness probe, or a crash",
            "kubectl -n {namespace} logs {pod} -c {container} --previous; kubectl -n {namespace} describe pod {pod}",
        ),
        "restarts": Fault(
            "A part is away for moments, `RESTARTS` grows",
            "a container that is ready now ended again and again",
            "kubectl -n {namespace} logs {pod} -c {container} --previous",
        ),
        "not-ready": Fault(
            "`Running`, but `0/1` ready",
            "the program runs, but its readiness probe fails",
            "kubectl -n {namespace} logs {pod}",
        ),
        "starting": Fault(
            "`ContainerCreating`, `PodInitializing`",
            "pods were made a moment ago",
            "run iml4e doctor again in a minute",
        ),
        "no-room": Fault(
            "`Pending`: `Insufficient cpu`, `Insufficient memory`",
            "no node has that much CPU or memory left",
            "kubectl describe nodes | grep -A8 'Allocated resources'; then lower resources.requests, free some, or add a node",
        ),
        "no-node": Fault(
            "`Pending`: node selector, affinity or taints",
            "no node has the labels, or all have a taint that is not tolerated",
            "kubectl get nodes --show-labels; kubectl describe nodes | grep Taints; then correct nodeSelector and tolerations",
        ),
        "no-device": Fault(
            "`Pending`: `Insufficient nvidia.com/gpu`",
            "no node has such a device free, or its device plugin does not run",
            "kubectl describe nodes | grep -e nvidia.com -e amd.com; then wait for one, add a node, or ask for none",
        ),
        "no-claim": Fault(
            "`Pending`: `unbound immediate PersistentVolumeClaims`",
            "the pod waits for its volume",
            "kubectl -n {namespace} get pvc; kubectl -n {namespace} describe pod {pod}",
        ),
        "evicted": Fault(
            "`Evicted`, `Failed` pods beside running ones",
            "a node ran out of disk or memory, or the pod used more disk than it may",
            "free space or raise the limit, then kubectl -n {namespace} delete pod {pod}",
        ),
        "terminating": Fault(
            "`Terminating` for minutes",
            "its node does not answer, or a finalizer waits for a controller that is away",
            "kubectl -n {namespace} describe {object}; when its node is gone: kubectl -n {namespace} delete {object} --force;"
            " a finalizer: start its controller",
        ),
    },
    "Refusals": {
        "quota": Fault(
            "Pods are missing; event `exceeded quota`",
            "the namespace's ResourceQuota is used up",
            "kubectl -n {namespace} describe resourcequota; then ask for less, or have it raised",
        ),
        "quota-limits": Fault(
            "Pods are missing; event `must specify limits.cpu`",
            "a ResourceQuota asks every container for requests or limits",
            UPGRADE + " -f values/quota.yaml",
        ),
        "limit-range": Fault(
            "Pods are missing; event `maximum memory usage per Container`",
            "the namespace's LimitRange allows less, or asks for more",
            "kubectl -n {namespace} describe limitrange; then keep resources within it",
        ),
        "security": Fault(
            "Pods are missing; event `violates PodSecurity`",
            "the pod asks for rights that the namespace does not give",
            "make the pod non-root, without privileges (docs/security.md); kubectl get namespace {namespace} --show-labels",
        ),
        "policy": Fault(
            "Pods are missing; event `denied the request`",
            "a policy of the cluster refuses the pod",
            "kubectl get validatingadmissionpolicies,validatingwebhookconfigurations; then ask its administrator",
        ),
        "account": Fault(
            "Pods are missing; event `serviceaccount … not found`",
            "the pod's service account was deleted, or never made",
            UPGRADE + ", or kubectl -n {namespace} create serviceaccount NAME",
        ),
        "priority": Fault(
            "Pods are missing; event `no PriorityClass with name`",
            "the pod names a priority class that does not exist",
            "kubectl get priorityclasses; then correct priorityClassName",
        ),
        "webhook": Fault(
            "Pods are missing; event `failed calling webhook`",
            "the API server cannot reach a webhook that must admit the pod",
            "kubectl get mutatingwebhookconfigurations,validatingwebhookconfigurations; then start that webhook's pods",
        ),
        "refused": Fault(
            "Pods are missing; event `FailedCreate`",
            "the API server does not take the pod",
            "kubectl -n {namespace} describe {object}",
        ),
    },
    "Jobs": {
        "job": Fault(
            "Buckets, users, passwords or a migration are missing",
            "a Job of the release failed",
            "kubectl -n {namespace} logs job/{name}; correct that, kubectl -n {namespace} delete job {name}, then " + UPGRADE,
        ),
        "cron-job": Fault(
            "Deleted runs keep their space; runs in MLflow stay `RUNNING`",
            "the last Job of a CronJob failed",
            "kubectl -n {namespace} logs job/{job}; then try: kubectl -n {namespace} create job --from=cronjob/{name} {name}-now",
        ),
        "restore-unfinished": Fault(
            "MLflow answers 503, no backups are made",
            "a restore was interrupted, or failed: half of a backup is there, and what writes stays stopped",
            "iml4e --release {release} --namespace {namespace} restore {name}",
        ),
        "cron-job-suspended": Fault(
            "Deleted runs keep their space; runs in MLflow stay `RUNNING`",
            "somebody suspended a CronJob",
            "kubectl -n {namespace} patch cronjob {name} -p '{{\"spec\":{{\"suspend\":false}}}}'",
        ),
    },
    "Volumes": {
        "claim": Fault(
            "A volume claim is `Pending`",
            "its storage class does not exist, its provisioner does not run, or no disk has that much room; a StatefulSet asks for the class and size that it was made with",
            "kubectl get storageclass; then start the provisioner, or correct persistence (or global.storageClass) in the values,"
            " kubectl -n {namespace} delete {object}, which have no data yet, and " + UPGRADE,
        ),
        "claim-lost": Fault(
            "A volume claim is `Lost`",
            "somebody deleted the volume below the claim",
            "restore the volume from your backup, or delete claim and pod for an empty one: kubectl -n {namespace} delete pvc {name}",
        ),
        "volume-full": Fault(
            "`No space left on device`, `Disk quota exceeded`, 507",
            "a volume is full, or almost",
            "delete data, or enlarge it: kubectl -n {namespace} patch pvc {name} -p '{{\"spec\":{{\"resources\":{{\"requests\":{{\"storage\":\"{larger}\"}}}}}}}}'",
        ),
    },
    "Store and database": {
        "host-name": Fault(
            "`Name or service not known`, `Could not resolve host`",
            "pods cannot resolve the name of the S3 store or database",
            "correct {value}: kubectl -n {namespace} get configmap {release}-runner -o yaml",
        ),
        "dns-of-pod": Fault(
            "No name is known in one pod; other pods are well",
            "the pod's own DNS settings lead nowhere",
            "kubectl -n {namespace} exec {pod} -- cat /etc/resolv.conf; then correct dnsPolicy and dnsConfig of {object}",
        ),
        "s3-address": Fault(
            "Runs cannot store artifacts, models cannot be fetched",
            "nothing answers at the address of the S3 store",
            "correct global.s3.endpoint, or start the store: kubectl -n {namespace} get pods -l app.kubernetes.io/name=minio",
        ),
        "s3-certificate": Fault(
            "`CERTIFICATE_VERIFY_FAILED` from the S3 store or database",
            "the store's certificate comes from an authority that pods do not trust",
            "put that authority into global.caCertificate (docs/install.md)",
        ),
        "s3-key": Fault(
            "`InvalidAccessKeyId`, `SignatureDoesNotMatch`",
            "the store does not know the access key, or its secret is another",
            "correct Secret {name}; with the release's own MinIO: kubectl -n {namespace} delete secret {name}, then "
            + UPGRADE
            + ", then kubectl -n {namespace} rollout restart deployment",
        ),
        "s3-rights": Fault(
            "`AccessDenied`",
            "the access key may not use the bucket",
            "give the key rights to bucket {bucket}; with the release's own MinIO: " + UPGRADE,
        ),
        "s3-bucket": Fault(
            "`NoSuchBucket`",
            "the bucket does not exist",
            "create bucket {bucket}; with the release's own MinIO: " + UPGRADE,
        ),
        "database-address": Fault(
            "MLflow waits in `Init`, or answers 500",
            "nothing answers at the address of the database",
            "correct global.database, or start it: kubectl -n {namespace} get pods -l app.kubernetes.io/name=mariadb",
        ),
        "database-login": Fault(
            "`Access denied for user`",
            "the database does not take user name and password",
            "correct Secret {name}; with the release's own MariaDB, which reads it at its start: kubectl -n {namespace} rollout restart statefulset/{release}-mariadb deployment",
        ),
        "database-missing": Fault(
            "`Unknown database`, `Access denied … to database`",
            "the server has no such database, or the user has no rights in it",
            "create it and grant the user its rights, or correct key database of Secret {name}",
        ),
    },
    "Gateway and addresses": {
        "gateway-class": Fault(
            "No address answers; Gateway `Unknown`, `Waiting for controller`",
            "no controller serves the Gateway's class",
            "kubectl get gatewayclass; then correct global.gateway, or start the gateway: kubectl -n {namespace} get pods -l app.kubernetes.io/component=gateway",
        ),
        "gateway-listener": Fault(
            "https does not answer; listener `InvalidCertificateRef`",
            "a listener of the Gateway cannot work, mostly for its certificate's Secret",
            "kubectl -n {namespace} describe gateway {name}; then create what it names, as Secret gateway.tls.secretName",
        ),
        "gateway-address": Fault(
            "The Service of the gateway is `<pending>`",
            "no load balancer gives it an address",
            "set gateway.service.type=NodePort or ClusterIP, or install a load balancer; kubectl -n {namespace} describe service {name}",
        ),
        "route": Fault(
            "404 below one path",
            "the Gateway does not take a route, or the Service behind it does not exist",
            "kubectl -n {namespace} describe httproute {name}",
        ),
        "service-empty": Fault(
            "503, `no available server`",
            "a Service selects no pod at all",
            "kubectl -n {namespace} describe service {name}; then correct its selector, or " + UPGRADE,
        ),
        "url": Fault(
            "The browser cannot connect",
            "nothing answers at global.publicUrl from this machine",
            "correct global.publicUrl, or kubectl -n {namespace} port-forward service/{service} 30080:80 and iml4e --url http://localhost:30080",
        ),
        "url-certificate": Fault(
            "The browser warns, Python says `CERTIFICATE_VERIFY_FAILED`",
            "this machine does not trust the certificate at global.publicUrl",
            "export REQUESTS_CA_BUNDLE=FILE with its authority, or give the gateway a public certificate (gateway.tls.secretName)",
        ),
        "url-host": Fault(
            "403 `Invalid Host header - possible DNS rebinding attack`",
            "MLflow does not answer to that host name",
            UPGRADE + " --set global.publicUrl={url}, or --set 'mlflow.allowedHosts={{{host}}}' for one more",
        ),
        "url-answer": Fault(
            "404, 500, 502, 503 or 504 at the address of a part",
            "the gateway, or the part behind it, does not work",
            "see the other findings; kubectl -n {namespace} logs deployment/{release}-mlflow",
        ),
    },
    "Monitoring": {
        "target-down": Fault(
            "Boards and alerts have gaps",
            "Prometheus cannot read the metrics of a pod",
            "kubectl -n {namespace} logs {pod}; Prometheus' page /prometheus/targets has the error",
        ),
        "autoscaler": Fault(
            "A model keeps its number of pods under load",
            "the autoscaler gets no metrics, or the pods request no CPU",
            "kubectl -n {namespace} describe hpa {name}; kubectl top pods needs metrics-server",
        ),
    },
    "Models": {
        "model-files": Fault(
            "`iml4e models`: not ready; `Init:Error`",
            "the model's files cannot be fetched: their path, the store, or the key",
            "deploy a version that is there: iml4e deploy {model} --name {name}; kubectl -n {namespace} logs {pod} -c storage-initializer",
        ),
        "model-load": Fault(
            "`iml4e models`: not ready; `CrashLoopBackOff`",
            "the model's code needs a package or another Python than the image has",
            "iml4e deploy {model} --name {name} --packages PACKAGE, or --image IMAGE",
        ),
        "model-packages": Fault(
            "`iml4e models`: not ready; pip's error",
            "packages that --packages names cannot be installed",
            "iml4e deploy {model} --name {name} with other --packages, or with --image",
        ),
        "model-kserve": Fault(
            "`iml4e models`: not ready, no pod",
            "KServe refuses the InferenceService, for example for an unknown runtime",
            "kubectl -n {namespace} describe inferenceservice {name}",
        ),
        "model-old": Fault(
            "A new version is deployed, the former one answers",
            "the pods of the new version do not start, or KServe refuses its InferenceService",
            "iml4e rollback {name}, or correct what hinders the new version",
        ),
        "model-unseen": Fault(
            "An InferenceService stays without any status",
            "no KServe controller takes it: none runs, or its annotations name another",
            "kubectl get deployments -A -l app.kubernetes.io/component=kserve; then start it, or correct annotation serving.kserve.io/deploymentMode",
        ),
        "model-unreachable": Fault(
            "A ready model answers 404, 502 or 503 at the gateway",
            "its route leads nowhere",
            "kubectl -n {namespace} describe httproute {name}; iml4e deploy {model} makes it anew",
        ),
    },
    "Runs": {
        "run-waits": Fault(
            "A run stays `Pending` or `Running` without progress",
            "the pod of a step does not start",
            "correct the step's resources, node selector or image, and run it again; kubectl -n {namespace} describe pod {pod}",
        ),
        "run-unseen": Fault(
            "A run stays `Pending` and has no pod",
            "no workflow controller takes it",
            "kubectl -n {namespace} get pods -l app.kubernetes.io/name=pipelines-argo; then start it, or delete that Workflow",
        ),
    },
}  # fmt: skip
FAULTS: dict[str, Fault] = {name: fault for group in GROUPS.values() for name, fault in group.items()}


def markdown() -> str:
    """The table as it stands in docs/troubleshooting.md."""
    text = []
    for group, faults in GROUPS.items():
        text += [f"### {group}", "", "| fault | symptom | meaning | next step |", "| --- | --- | --- | --- |"]
        for name, fault in faults.items():
            cells = (f"`{name}`", fault.symptom, fault.meaning, f"`{_named(fault.cure)}`")
            text.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        text.append("")
    return "\n".join(text)


def _named(cure: str) -> str:
    """A cure with names in capitals, as a reader replaces them."""
    upper = re.sub(r"(?<!\{)\{(\w+)\}", lambda found: found[1].upper(), cure)
    return upper.replace("{{", "{").replace("}}", "}")


if __name__ == "__main__":
    print(markdown())
