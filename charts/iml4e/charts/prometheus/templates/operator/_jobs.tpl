{{- /* Rules of relabelling as the operator's objects spell them, with the default that the API server would add: GitOps tools compare. */}}
{{- define "prometheus.operator.relabelings" -}}
{{- range $rule := . }}
{{- $spelled := dict "action" "replace" }}
{{- range $key, $value := $rule }}
{{- $_ := set $spelled (camelcase $key | untitle) $value }}
{{- end }}
- {{ toJson $spelled }}
{{- end }}
{{- end }}

{{- /* Path of the operator's Prometheus below its address, where the jobs write /prometheus. */}}
{{- define "prometheus.operator.path" -}}
{{- $own := (urlParse (tpl .Values.global.monitoring.url .)).path | trimSuffix "/" }}
{{- regexReplaceAll "^/prometheus" .path $own }}
{{- end }}
