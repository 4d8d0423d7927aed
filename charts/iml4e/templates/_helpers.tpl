{{- define "runner.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: runner
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: runner
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- /* "true" where users' pods run in the namespace of service accounts with rights in the whole cluster. */}}
{{- define "runner.guarded" -}}
{{- $controller := and .Values.kserve.enabled (dig "controller" "enabled" true .Values.kserve) }}
{{- if and (or .Values.kserve.enabled .Values.pipelines.enabled) (or .Values.gateway.enabled .Values.prometheus.enabled $controller) }}true{{ end }}
{{- end }}

{{- /* "true" where the hub of notebooks makes pods beside such accounts: in a release that has objects of the whole cluster anyway. */}}
{{- define "runner.holdsHub" -}}
{{- $controller := and .Values.kserve.enabled (dig "controller" "enabled" true .Values.kserve) }}
{{- if and (.Values.notebooks).enabled (or .Values.gateway.enabled .Values.prometheus.enabled $controller) }}true{{ end }}
{{- end }}

{{- /* "true" where the release gives pods that request a GPU the settings of their pool: the kind is stable from Kubernetes 1.36 on. */}}
{{- define "runner.placesGpus" -}}
{{- if and .Values.global.gpuPools (or .Values.mlflow.enabled .Values.kserve.enabled .Values.pipelines.enabled) (semverCompare ">=1.36-0" .Capabilities.KubeVersion.Version) }}true{{ end }}
{{- end }}

{{- /* Fields of the PodSpec of a Job that runs a pipeline, as JSON. */}}
{{- define "iml4e.jobPodSpec" -}}
{{- $securityContext := dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- if eq .Values.global.securityContext "chart" }}
{{- $securityContext = merge $securityContext (dict "runAsUser" 1000 "runAsGroup" 1000 "fsGroup" 1000) }}
{{- end }}
{{- $podSpec := dict "securityContext" $securityContext }}
{{- with .Values.global.nodeSelector }}
{{- $_ := set $podSpec "nodeSelector" . }}
{{- end }}
{{- with .Values.global.tolerations }}
{{- $_ := set $podSpec "tolerations" . }}
{{- end }}
{{- toJson $podSpec }}
{{- end }}

{{- /* Secrets that the parts read, as YAML: `keys` of the S3 store, `accounts` of the database. */}}
{{- define "iml4e.secretsRead" -}}
{{- $on := dict }}
{{- range .Chart.Dependencies }}{{ $_ := set $on .Name true }}{{ end }}
{{- $keys := list }}
{{- if or $on.mlflow $on.pipelines $on.kserve }}
{{- $keys = list (tpl .Values.runner.s3Secret .) }}
{{- end }}
{{- $accounts := list }}
{{- with .Subcharts.mlflow }}
{{- $keys = tpl .Values.s3.existingSecret . | append $keys }}
{{- $accounts = tpl .Values.database.existingSecret . | append $accounts }}
{{- end }}
{{- with .Subcharts.pipelines }}
{{- $keys = tpl .Values.s3.existingSecret . | append $keys }}
{{- $accounts = concat $accounts (list (tpl .Values.api.database.existingSecret .) (tpl .Values.metadata.database.existingSecret .)) }}
{{- end }}
{{- with .Subcharts.kserve }}
{{- $keys = tpl .Values.s3.existingSecret . | append $keys }}
{{- end }}
{{- with .Subcharts.notebooks }}
{{- $keys = tpl .Values.server.s3Secret . | append $keys }}
{{- end }}
{{- dict "keys" ($keys | compact | uniq) "accounts" ($accounts | compact | uniq) | toYaml }}
{{- end }}
