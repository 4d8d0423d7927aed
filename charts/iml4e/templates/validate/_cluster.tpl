{{- /* Objects of the cluster that another release owns: Helm's own message names neither reason nor remedy. Without a cluster there are no findings. */}}
{{- define "iml4e.findings.cluster" }}
{{- $on := dict }}
{{- range .Chart.Dependencies }}{{ $_ := set $on .Name true }}{{ end }}
{{- $kserve := and $on.kserve .Values.kserve.controller.enabled }}
{{- /* only parts with a ClusterRole: who may not make one may not read ClusterRoles and other namespaces, and lookup ends with an error there */}}
{{- $wide := false }}
{{- range $part, $makes := dict "gateway" $on.gateway "prometheus" (and $on.prometheus (eq .Values.global.monitoring.mode "bundled")) "kserve" $kserve }}
{{- if $makes }}
{{- $wide = true }}
{{- $name := printf "%s-%s" $.Release.Name $part }}
{{- with include "iml4e.otherOwner" (dict "object" (lookup "rbac.authorization.k8s.io/v1" "ClusterRole" "" $name) "Release" $.Release) }}
{{ . }} owns the cluster-wide objects of this name, ClusterRole {{ $name }} for example: choose another release name.
{{- break }}
{{- end }}
{{- end }}
{{- end }}
{{- if $kserve }}
{{- if .Capabilities.APIVersions.Has "serving.kserve.io/v1alpha1/ClusterServingRuntime" }}
{{- with include "iml4e.otherOwner" (dict "object" (lookup "serving.kserve.io/v1alpha1" "ClusterServingRuntime" "" "mlflow") "Release" .Release) }}
{{ . }} runs KServe's controller, and there can be one in a cluster: set kserve.controller.enabled=false, and install with --skip-crds.
{{- end }}
{{- end }}
{{- /* the name of the webhook in KServe's own charts and manifests */}}
{{- if lookup "admissionregistration.k8s.io/v1" "ValidatingWebhookConfiguration" "" "inferenceservice.serving.kserve.io" }}
A KServe that is not of this chart runs in the cluster (ValidatingWebhookConfiguration inferenceservice.serving.kserve.io): set kserve.controller.enabled=false, and install with --skip-crds.
{{- end }}
{{- end }}
{{- if and $on.kserve (not $kserve) .Values.kserve.runtimes.mlflow.enabled (.Capabilities.APIVersions.Has "serving.kserve.io/v1alpha1/ServingRuntime") }}
{{- with include "iml4e.otherOwner" (dict "object" (lookup "serving.kserve.io/v1alpha1" "ServingRuntime" .Release.Namespace "mlflow") "Release" .Release) }}
{{ . }} serves models, and there can be one such release in a namespace: set kserve.enabled=false, or choose another namespace.
{{- end }}
{{- end }}
{{- if $on.pipelines }}
{{- with include "iml4e.otherOwner" (dict "object" (lookup "v1" "Service" .Release.Namespace "ml-pipeline") "Release" .Release) }}
{{ . }} has Kubeflow Pipelines, and there can be one in a namespace: set pipelines.enabled=false, or choose another namespace.
{{- end }}
{{- end }}
{{- /* apiregistration.k8s.io: every cluster has it, and no rendering without one */}}
{{- if and $on.prometheus (eq .Values.global.monitoring.mode "operator") (.Capabilities.APIVersions.Has "apiregistration.k8s.io/v1") }}
{{- $missing := list }}
{{- range $kind, $version := dict "PodMonitor" "v1" "PrometheusRule" "v1" "ServiceMonitor" "v1" "ScrapeConfig" "v1alpha1" }}
{{- if not ($.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/%s/%s" $version $kind)) }}{{ $missing = append $missing $kind }}{{ end }}
{{- end }}
{{- with $missing }}
global.monitoring.mode is operator, but the cluster does not know {{ join ", " . }}: install the Prometheus Operator, 0.75 or newer, with its CRDs first, or set global.monitoring.mode=bundled.
{{- end }}
{{- end }}
{{- /* only at the installation, here and below: an upgrade may run without the right to list objects of other namespaces */}}
{{- if and $wide .Release.IsInstall .Values.global.networkPolicy.enabled }}
{{- $known := list }}
{{- range .Values.global.networkPolicy.dns.ports }}{{ $known = append $known (int .) }}{{ end }}
{{- range (lookup "discovery.k8s.io/v1" "EndpointSlice" "kube-system" "").items }}
{{- if eq (dig "metadata" "labels" "kubernetes.io/service-name" "" .) "kube-dns" }}
{{- range .ports }}
{{- if and (hasPrefix "dns" (toString .name)) (not (has (int .port) $known)) }}
The name server of this cluster (kube-dns in kube-system) listens on port {{ .port }}, which no pod of the release may reach: add {{ .port }} to global.networkPolicy.dns.ports.
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $known = list }}
{{- range .Values.global.networkPolicy.apiServer.ports }}{{ $known = append $known (int .) }}{{ end }}
{{- range (lookup "discovery.k8s.io/v1" "EndpointSlice" "default" "kubernetes").ports }}
{{- if not (has (int .port) $known) }}
The API server of this cluster (kubernetes in default) listens on port {{ .port }}, which no pod of the release may reach: add {{ .port }} to global.networkPolicy.apiServer.ports.
{{- end }}
{{- end }}
{{- end }}
{{- /* kinds that Traefik watches; Helm makes those that are missing, and changes none that exists. `iml4e upgrade` does */}}
{{- if and .Release.IsInstall $on.gateway }}
{{- $older := list }}
{{- range $kind := list "BackendTLSPolicy" "GRPCRoute" "Gateway" "GatewayClass" "HTTPRoute" "TLSRoute" }}
{{- if not ($.Capabilities.APIVersions.Has (printf "gateway.networking.k8s.io/v1/%s" $kind)) }}
{{- range list "v1beta1" "v1alpha3" "v1alpha2" }}
{{- if $.Capabilities.APIVersions.Has (printf "gateway.networking.k8s.io/%s/%s" . $kind) }}{{ $older = append $older $kind }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- with uniq $older }}
The cluster has CRDs of an older Gateway API, without v1 of {{ join ", " . }}, for which Traefik would wait for ever: agree with their owner and run `kubectl apply --server-side --force-conflicts -f charts/iml4e/charts/gateway/crds`, or set gateway.enabled=false and name a Gateway of yours in global.gateway.
{{- end }}
{{- end }}
{{- if and .Release.IsInstall $on.gateway (eq .Values.gateway.service.type "NodePort") }}
{{- $own := printf "%s-gateway" .Release.Name }}
{{- $ports := dict "nodePort" .Values.gateway.service.nodePort }}
{{- if .Values.gateway.tls.enabled }}{{ $_ := set $ports "nodePortTls" .Values.gateway.service.nodePortTls }}{{ end }}
{{- range (lookup "v1" "Service" "" "").items }}
{{- $there := .metadata }}
{{- range .spec.ports }}
{{- $taken := int .nodePort }}
{{- range $key, $port := $ports }}
{{- if and $port (eq (int $port) $taken) (not (and (eq $there.name $own) (eq $there.namespace $.Release.Namespace))) }}
Port {{ $taken }} of the nodes belongs to Service {{ $there.name }} in namespace {{ $there.namespace }}: set gateway.service.{{ $key }} to another (0 lets Kubernetes choose), and global.publicUrl to the address that results.
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* An interrupted restore: MLflow and Kubeflow Pipelines stay at 0 replicas until it has ended. */}}
{{- define "iml4e.findings.restore" }}
{{- with dig "metadata" "annotations" "iml4e.org/restoring" "" (lookup "batch/v1" "CronJob" .Release.Namespace (printf "%s-backup" .Release.Name) | default dict) }}
half of backup {{ . }} is restored, and an upgrade would start MLflow on it: finish that with `iml4e restore {{ . }}`, then upgrade. Where the restore needs another value, run `kubectl -n {{ $.Release.Namespace }} annotate cronjob {{ $.Release.Name }}-backup iml4e.org/restoring-`, upgrade, then `iml4e restore {{ . }} --force`.
{{- end }}
{{- end }}

{{- /* Workloads that `kubectl scale` or an autoscaler gave another number of replicas than the values: Helm 4 would stop at the first of them with half
       of the objects changed, Helm 3 would silently set the number back. */}}
{{- define "iml4e.findings.scaled" }}
{{- if .Release.IsUpgrade }}
{{- $on := dict }}
{{- range .Chart.Dependencies }}{{ $_ := set $on .Name true }}{{ end }}
{{- $values := dict "pipelines" "api.replicas" "pipelines-argo" "argo.replicas" "pipelines-ui" "ui.replicas" }}
{{- range list "gateway" "home" "kserve" "mlflow" }}{{ $_ := set $values . "replicas" }}{{ end }}
{{- range $kind := list "Deployment" "StatefulSet" }}
{{- range (lookup "apps/v1" $kind $.Release.Namespace "").items }}
{{- $part := index (.metadata.labels | default dict) "app.kubernetes.io/component" | default "" }}
{{- if and (eq (index (.metadata.annotations | default dict) "meta.helm.sh/release-name" | default "") $.Release.Name) (hasKey $on $part) }}
{{- $key := get $values (.metadata.name | trimPrefix (printf "%s-" $.Release.Name)) }}
{{- $own := index $.Values $part }}
{{- if not (and (eq $key "replicas") (dig "autoscaling" "enabled" false $own)) }}
{{- $wanted := 1 }}
{{- range $key | splitList "." | compact }}{{ $own = index $own . }}{{ $wanted = $own }}{{ end }}
{{- $scaled := false }}
{{- range .metadata.managedFields }}
{{- if and (eq (.subresource | default "") "scale") (dig "f:spec" "f:replicas" false (.fieldsV1 | default dict) | kindIs "map") }}{{ $scaled = .manager }}{{ end }}
{{- end }}
{{- if and $scaled (ne (int .spec.replicas) (int $wanted)) }}
{{- $back := printf "run `kubectl -n %s scale %s %s --replicas=%d`, then upgrade" .metadata.namespace (lower $kind) .metadata.name (int $wanted) }}
{{ $kind }} {{ .metadata.name }} has {{ .spec.replicas }} replicas by {{ $scaled }}, and the values say {{ $wanted }}: {{ if $key }}set {{ $part }}.{{ $key }}={{ .spec.replicas }} to keep them, or {{ end }}{{ $back }}.
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* `Release … in namespace …` where an object belongs to another release: dict "object" (lookup …) "Release" .Release */}}
{{- define "iml4e.otherOwner" -}}
{{- $annotations := dig "metadata" "annotations" (dict) .object }}
{{- $name := index $annotations "meta.helm.sh/release-name" }}
{{- $namespace := index $annotations "meta.helm.sh/release-namespace" }}
{{- if and $name (or (ne $name .Release.Name) (ne $namespace .Release.Namespace)) }}Release {{ $name }} in namespace {{ $namespace }}{{ end }}
{{- end }}
