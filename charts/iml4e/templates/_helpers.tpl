{{- define "iml4e.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/name: runner
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: runner
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
