{{- /* Where alerts are sent. */}}
{{- define "prometheus.alerting" -}}
{{- end }}
