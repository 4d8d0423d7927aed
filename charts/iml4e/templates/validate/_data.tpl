{{- /* Changes that leave data or models behind, although Kubernetes would allow them. Who has moved them says so by removing what the sentence names.
       Without a cluster there are no findings. */}}
{{- define "iml4e.findings.data" }}
{{- $on := dict }}
{{- range .Chart.Dependencies }}{{ $_ := set $on .Name true }}{{ end }}
{{- $kubectl := printf "kubectl -n %s" .Release.Namespace }}
{{- $host := tpl .Values.global.database.host . }}
{{- $endpoint := tpl .Values.global.s3.endpoint . }}
{{- $next := dict
      "mariadb" (dict "has" "databases" "at" $host "host" $host "read" (or $on.mlflow $on.pipelines))
      "minio" (dict "has" "buckets" "at" ($endpoint | default "AWS") "host" (urlParse $endpoint).hostname "read" (or $on.mlflow $on.kserve $on.pipelines)) }}
{{- range $part, $to := $next }}
{{- if and (not (get $on $part)) $to.read (not (include "iml4e.isOwn" (dict "host" $to.host "service" $part "Release" $.Release))) }}
{{- $name := printf "%s-%s" $.Release.Name $part }}
{{- if include "iml4e.isOurs" (dict "object" (lookup "apps/v1" "StatefulSet" $.Release.Namespace $name) "Release" $.Release) }}
{{ $part }} is off, but StatefulSet {{ $name }} has the {{ $to.has }} of this release, and {{ $to.at }} would begin without them. Nothing was changed. Set {{ $part }}.enabled=true to keep them, or copy them (docs/operations.md, Move), then remove the StatefulSet (its volume stays) and repeat this command: {{ $kubectl }} delete statefulset/{{ $name }}
{{- end }}
{{- end }}
{{- end }}
{{- $name := printf "%s-runner" .Release.Name }}
{{- with lookup "v1" "ConfigMap" .Release.Namespace $name }}
{{- $there := .data | default dict }}
{{- $former := get $there "AWS_ENDPOINT_URL" }}
{{- $was := include "iml4e.isOwn" (dict "host" (urlParse $former).hostname "service" "minio" "Release" $.Release) }}
{{- $is := include "iml4e.isOwn" (dict "host" (urlParse $endpoint).hostname "service" "minio" "Release" $.Release) }}
{{- if and $former (ne $was $is) (or $on.minio $is) }}
{{ $former }} has the buckets of this release, and {{ $endpoint | default "AWS" }} would begin without them. Nothing was changed. Set global.s3.endpoint={{ $former }} to keep them, or copy them (docs/operations.md, Move), then remove the note of the former address and repeat this command: {{ $kubectl }} delete configmap/{{ $name }}
{{- end }}
{{- range $role, $bucket := $.Values.global.s3.buckets }}
{{- $former := get $there (printf "S3_%s_BUCKET" (upper $role)) }}
{{- if and $former (ne $former $bucket) }}
Bucket {{ $former }} has files of this release, and global.s3.buckets.{{ $role }}={{ $bucket }} would begin without them. Nothing was changed. Set it to {{ $former }} to keep them, or copy them (docs/operations.md, Move), then remove the note of the former name and repeat this command: {{ $kubectl }} delete configmap/{{ $name }}
{{- end }}
{{- end }}
{{- end }}
{{- $name = printf "%s-kserve" .Release.Name }}
{{- if and (not (and $on.kserve .Values.kserve.controller.enabled)) (.Capabilities.APIVersions.Has "serving.kserve.io/v1beta1/InferenceService") }}
{{- if include "iml4e.isOurs" (dict "object" (lookup "apps/v1" "Deployment" .Release.Namespace $name) "Release" .Release) }}
{{- $models := dict }}
{{- /* of all namespaces, as the controller serves them: who may remove its ClusterRole may list them */}}
{{- range (lookup "serving.kserve.io/v1beta1" "InferenceService" "" "").items }}
{{- $_ := printf "%s %s" (get $models .metadata.namespace) .metadata.name | set $models .metadata.namespace }}
{{- end }}
{{- $commands := list }}
{{- range $namespace, $names := $models }}{{ $commands = printf "kubectl -n %s delete inferenceservices%s" $namespace $names | append $commands }}{{ end }}
{{- with $commands }}
The controller of KServe goes, but serves models, which without it can neither change nor be deleted: it removes their finalizer. Nothing was changed. Delete them ({{ join "; " . }}), or, where another KServe takes them over, remove the controller, and repeat this command: {{ $kubectl }} delete deployment/{{ $name }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* "true" where an object is there and of this release: dict "object" (lookup …) "Release" .Release */}}
{{- define "iml4e.isOurs" -}}
{{- if eq (dig "metadata" "annotations" "meta.helm.sh/release-name" "" (.object | default dict)) .Release.Name }}true{{ end }}
{{- end }}
