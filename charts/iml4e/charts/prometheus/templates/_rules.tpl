{{- /* All groups of rules as YAML, for Prometheus' own file and for a PrometheusRule. OBJECTIVE and WINDOW in the files are values. */}}
{{- define "prometheus.rules" -}}
{{- $groups := list }}
{{- range $path, $_ := .Files.Glob "files/rules-*.yaml" }}
{{- $text := $.Files.Get $path | replace "OBJECTIVE" (toString $.Values.objectives.availability) | replace "WINDOW" (include "prometheus.window" $) }}
{{- $groups = concat $groups (fromYaml $text).groups }}
{{- end }}
{{- toYaml (dict "groups" $groups) }}
{{- end }}

{{- /* Time over which the objective holds: 28 days, or as long as samples are kept, unless the values say otherwise. */}}
{{- define "prometheus.window" -}}
{{- $unit := regexFind "[hdw]$" (regexFind "^[0-9]+[hdw]$" .Values.retention.time) }}
{{- $days := 28 }}
{{- if $unit }}
{{- $hours := mul (trimSuffix $unit .Values.retention.time | int) (get (dict "h" 1 "d" 24 "w" 168) $unit) }}
{{- $days = div $hours 24 | min 28 | max 1 }}
{{- end }}
{{- .Values.objectives.window | default (printf "%dd" (int $days)) }}
{{- end }}
