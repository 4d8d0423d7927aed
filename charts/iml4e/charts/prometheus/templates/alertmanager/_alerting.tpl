{{- /* Where Prometheus sends alerts; nothing where there is no Alertmanager. */}}
{{- define "prometheus.alerting" -}}
{{- $address := tpl .Values.alertmanager.url . }}
{{- if and $address (or .Values.alertmanager.enabled (ne $address (include "prometheus.alertmanager.url" .))) }}
{{- $url := urlParse $address }}
{{- $port := regexFind ":[0-9]+$" $url.host | default (eq $url.scheme "https" | ternary ":443" ":80") }}
alerting:
  alertmanagers:
    - scheme: {{ $url.scheme }}
      {{- with $url.path }}
      path_prefix: {{ . | quote }}
      {{- end }}
      static_configs:
        - targets: [{{ printf "%s%s" (trimSuffix $port $url.host) $port | quote }}]
{{- end }}
{{- end }}

{{- define "prometheus.alertmanager.url" -}}
http://{{ .Release.Name }}-alertmanager.{{ .Release.Namespace }}.svc:9093/alertmanager
{{- end }}

{{- /* Whether this release runs an Alertmanager. */}}
{{- define "prometheus.alertmanager.on" -}}
{{- if and .Values.alertmanager.enabled (eq .Values.global.monitoring.mode "bundled") }}true{{ end }}
{{- end }}

{{- /* Its configuration as JSON, which is YAML too: large numbers keep their digits (the ids of Telegram's chats), and its own {{ }} is not read. */}}
{{- define "prometheus.alertmanager.config" -}}
{{- $config := deepCopy .Values.alertmanager.config }}
{{- $names := list }}
{{- range $config.receivers }}{{ $names = append $names .name }}{{ end }}
{{- if not (has "nobody" $names) }}
{{- $_ := set $config "receivers" (prepend $config.receivers (dict "name" "nobody")) }}
{{- end }}
{{- if .Values.alertmanager.templates }}
{{- $_ := set $config "templates" (list "/etc/alertmanager/config/*.tmpl") }}
{{- end }}
{{- toPrettyJson $config }}
{{- end }}
