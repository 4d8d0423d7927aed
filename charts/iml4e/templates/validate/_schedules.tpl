{{- /* Fields of a schedule beyond their ranges, which the API server would refuse with half of the objects changed. Ranges are those of Kubernetes: no
       weekday 7. The schema knows the shape alone: Helm would print a pattern with all ranges, and no sentence. */}}
{{- define "iml4e.findings.schedules" }}
{{- $fields := list
  (dict "name" "minute" "value" "0*[1-5]?[0-9]" "range" "0-59")
  (dict "name" "hour" "value" "0*(1?[0-9]|2[0-3])" "range" "0-23")
  (dict "name" "day" "value" "0*([1-9]|[12][0-9]|3[01])" "range" "1-31")
  (dict "name" "month" "value" "(0*([1-9]|1[0-2])|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)" "range" "1-12, jan-dec")
  (dict "name" "weekday" "value" "(0*[0-6]|sun|mon|tue|wed|thu|fri|sat)" "range" "0-6, sun-sat (0 is Sunday)")
}}
{{- $schedules := dict }}
{{- if .Values.backup.enabled }}{{ $_ := set $schedules "backup.schedule" .Values.backup.schedule }}{{ end }}
{{- with .Subcharts.mlflow }}{{ $_ := set $schedules "mlflow.gc.schedule" .Values.gc.schedule }}{{ end }}
{{- with .Subcharts.pipelines }}
{{- $_ := set $schedules "pipelines.mlflow.cleanup.schedule" .Values.mlflow.cleanup.schedule }}
{{- $_ := set $schedules "pipelines.retention.schedule" .Values.retention.schedule }}
{{- end }}
{{- range $key, $schedule := $schedules }}
{{- if and $schedule (not (hasPrefix "@" $schedule)) }}
{{- range $index, $written := regexSplit " +" $schedule -1 }}
{{- $field := index $fields $index }}
{{- $item := printf "([*?]|%[1]s(-%[1]s)?)(/0*[1-9][0-9]*)?" $field.value }}
{{- if not (regexMatch (printf "(?i)^%[1]s(,%[1]s)*$" $item) $written) }}
{{ $key }} is {{ quote $schedule }}, and {{ $written }} is no {{ $field.name }}: write {{ $field.range }}, * for all, a range (1-5), a step (*/2) or a list of these (1,3).
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
