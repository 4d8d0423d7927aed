{{- define "backup.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{ include "backup.podLabels" . }}
{{- end }}

{{- define "backup.podLabels" -}}
app.kubernetes.io/name: backup
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: backup
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- /* What is backed up, as YAML: `databases` with the Secret of each, `buckets` with name and Secret of each. */}}
{{- define "backup.stores" -}}
{{- $on := dict }}
{{- range .Chart.Dependencies }}{{ $_ := set $on .Name true }}{{ end }}
{{- $databases := dict }}
{{- $buckets := dict }}
{{- with .Subcharts.mlflow }}
{{- $_ := set $databases "mlflow" (tpl .Values.database.existingSecret .) }}
{{- $_ := set $buckets "mlflow" (dict "name" .Values.global.s3.buckets.mlflow "secret" (tpl .Values.s3.existingSecret .)) }}
{{- end }}
{{- with .Subcharts.pipelines }}
{{- $_ := set $databases "mlpipeline" (tpl .Values.api.database.existingSecret .) }}
{{- $_ := set $databases "metadb" (tpl .Values.metadata.database.existingSecret .) }}
{{- $_ := set $buckets "pipelines" (dict "name" .Values.global.s3.buckets.pipelines "secret" (tpl .Values.s3.existingSecret .)) }}
{{- end }}
{{- if or $on.mlflow $on.pipelines }}
{{- $_ := set $buckets "datasets" (dict "name" .Values.global.s3.buckets.datasets "secret" (tpl .Values.runner.s3Secret .)) }}
{{- end }}
{{- if not .Values.backup.objects }}
{{- $buckets = dict }}
{{- end }}
{{- dict "databases" $databases "buckets" $buckets | toYaml }}
{{- end }}

{{- /* Kinds that a backup reads, as rules of a role. */}}
{{- define "backup.rules" -}}
- apiGroups: [serving.kserve.io]
  resources: [inferenceservices, inferencegraphs, servingruntimes, trainedmodels]
  verbs: [list]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [list]
- apiGroups: [kubeflow.org]
  resources: [scheduledworkflows]
  verbs: [list]
{{- end }}
