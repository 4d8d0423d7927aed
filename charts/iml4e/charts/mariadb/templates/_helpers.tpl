{{- define "mariadb.fullname" -}}
{{ .Release.Name }}-mariadb
{{- end }}

{{- define "mariadb.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{ include "mariadb.selectorLabels" . }}
app.kubernetes.io/component: mariadb
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "mariadb.selectorLabels" -}}
app.kubernetes.io/name: mariadb
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Takes a dict of `global` and `image`. */}}
{{- define "mariadb.image" -}}
{{ .global.imageRegistry | default .image.registry }}/{{ .image.repository }}:{{ .image.tag }}
{{- end }}
