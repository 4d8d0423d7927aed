{{- /* Variables that a container would have twice: Kubernetes refuses those where they are applied by the server, as Helm 4 does. */}}
{{- define "iml4e.findings.environment" }}
{{- $own := .Files.Get "files/variables.yaml" | fromYaml }}
{{- range .Chart.Dependencies }}
{{- $part := .Name }}
{{- $names := list }}
{{- range (index $.Values $part).extraEnv }}
{{- if has .name (index $own $part) }}
{{ $part }}.extraEnv sets {{ .name }}, which the chart sets: {{ if eq .name "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY" }}put its value into a Secret and name that in mlflow.webhooks.existingSecret, then {{ end }}remove that entry, because a container takes no variable twice.
{{- else if has .name $names }}
{{ $part }}.extraEnv names {{ .name }} twice: remove one of both.
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- end }}
{{- end }}
