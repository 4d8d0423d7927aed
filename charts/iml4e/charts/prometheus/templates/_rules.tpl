{{- /* All groups of rules as YAML, for Prometheus' own file and for a PrometheusRule. OBJECTIVE and WINDOW in the files are values. */}}
{{- define "prometheus.rules" -}}
{{- $groups := list }}
{{- range $path, $_ := .Files.Glob "files/rules-*.yaml" }}
{{- $text := $.Files.Get $path | replace "OBJECTIVE" (toString $.Values.objectives.availability) | replace "WINDOW" $.Values.objectives.window }}
{{- $groups = concat $groups (fromYaml $text).groups }}
{{- end }}
{{- toYaml (dict "groups" $groups) }}
{{- end }}
