{{- define "pipelines.fullname" -}}
{{ .Release.Name }}-pipelines
{{- end }}

{{- define "pipelines.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{ include "pipelines.selectorLabels" (dict "root" . "name" "pipelines") }}
app.kubernetes.io/component: pipelines
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* This part has several workloads. Takes a dict of `root` and the `name` of one: `pipelines` is the API server. */}}
{{- define "pipelines.selectorLabels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* Takes a dict of `global` and `image`. */}}
{{- define "pipelines.image" -}}
{{ .global.imageRegistry | default .image.registry }}/{{ .image.repository }}:{{ .image.tag }}
{{- end }}

{{/* The S3 store, as JSON: each of its readers here wants the address in another form. */}}
{{- define "pipelines.s3" -}}
{{- $endpoint := tpl .Values.global.s3.endpoint . | default (printf "https://s3.%s.amazonaws.com" .Values.global.s3.region) | urlParse }}
{{- $secure := eq $endpoint.scheme "https" }}
{{- dict "url" (printf "%s://%s" $endpoint.scheme $endpoint.host) "host" $endpoint.host "name" $endpoint.hostname
  "port" (regexFind "[0-9]+$" (regexFind ":[0-9]+$" $endpoint.host) | default ($secure | ternary "443" "80")) "secure" $secure
  "secret" (tpl .Values.s3.existingSecret .) | toJson }}
{{- end }}
