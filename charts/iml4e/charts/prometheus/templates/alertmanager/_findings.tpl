{{- /* Values of Alertmanager that cannot work, a line each. */}}
{{- define "prometheus.alertmanager.findings" }}
{{- $config := .Values.alertmanager.config }}
{{- $names := list "nobody" }}
{{- range $config.receivers }}
{{- if and (has .name $names) (ne .name "nobody") }}
prometheus.alertmanager.config.receivers names {{ .name }} twice: give one entry all of its integrations.
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- include "prometheus.alertmanager.routes" (dict "route" $config.route "names" $names "known" (join ", " (uniq $names))) }}
{{- $intervals := list }}
{{- range $config.time_intervals }}{{ $intervals = append $intervals .name }}{{ end }}
{{- include "prometheus.alertmanager.intervals" (dict "route" $config.route "names" $intervals) }}
{{- if $config.route.matchers }}
prometheus.alertmanager.config.route has matchers, but the first route takes every alert: move them into an entry of prometheus.alertmanager.config.route.routes.
{{- end }}
{{- range $config.receivers }}
{{- range .slack_configs }}
{{- if .api_url }}
prometheus.alertmanager.config.receivers has api_url of Slack in the values, and whoever knows that address can write: put it into a Secret, name that in prometheus.alertmanager.secrets, and set api_url_file to /etc/alertmanager/secrets/<Secret>/<key>.
{{- end }}
{{- end }}
{{- include "prometheus.alertmanager.secrets" (dict "node" . "path" (printf "receivers[%s]" .name) "secrets" $.Values.alertmanager.secrets) }}
{{- end }}
{{- include "prometheus.alertmanager.secrets" (dict "node" ($config.global | default dict) "path" "global" "secrets" $.Values.alertmanager.secrets) }}
{{- if and (eq .Values.global.monitoring.mode "operator") $config.receivers }}
prometheus.alertmanager.config.receivers has no effect, because global.monitoring.mode is operator: give the receivers to the operator's Alertmanager, and remove them here.
{{- end }}
{{- if and (include "prometheus.alertmanager.on" .) (ne (tpl .Values.alertmanager.url .) (include "prometheus.alertmanager.url" .)) }}
prometheus.alertmanager.url does not lead to the Alertmanager of this release, which would get no alerts: set prometheus.alertmanager.enabled=false, or leave prometheus.alertmanager.url as it is.
{{- end }}
{{- if and (not .Values.alertmanager.enabled) $config.receivers }}
prometheus.alertmanager.config.receivers has no effect, because prometheus.alertmanager.enabled is false: give the receivers to your own Alertmanager, and remove them here.
{{- end }}
{{- end }}

{{- /* Receivers of a tree of routes that do not exist: dict "route" … "names" … "known" "…" */}}
{{- define "prometheus.alertmanager.routes" }}
{{- with .route.receiver }}
{{- if not (has . $.names) }}
prometheus.alertmanager.config.route sends to receiver {{ . }}, which prometheus.alertmanager.config.receivers lacks: add it, or name one of {{ $.known }}.
{{- end }}
{{- end }}
{{- range .route.routes }}
{{- include "prometheus.alertmanager.routes" (dict "route" . "names" $.names "known" $.known) }}
{{- end }}
{{- end }}

{{- /* Time intervals of a tree of routes that do not exist: dict "route" … "names" … */}}
{{- define "prometheus.alertmanager.intervals" }}
{{- range concat (.route.mute_time_intervals | default list) (.route.active_time_intervals | default list) }}
{{- if not (has . $.names) }}
prometheus.alertmanager.config.route names the time interval {{ . }}, which prometheus.alertmanager.config.time_intervals lacks: add it there.
{{- end }}
{{- end }}
{{- range .route.routes }}
{{- include "prometheus.alertmanager.intervals" (dict "route" . "names" $.names) }}
{{- end }}
{{- end }}

{{- /* Passwords in the values, and files of Secrets that are not mounted: dict "node" … "path" "…" "secrets" … */}}
{{- define "prometheus.alertmanager.secrets" }}
{{- if kindIs "slice" .node }}
{{- range .node }}
{{- include "prometheus.alertmanager.secrets" (dict "node" . "path" $.path "secrets" $.secrets) }}
{{- end }}
{{- else if kindIs "map" .node }}
{{- range $key, $value := .node }}
{{- if not (kindIs "string" $value) }}
{{- include "prometheus.alertmanager.secrets" (dict "node" $value "path" $.path "secrets" $.secrets) }}
{{- else if regexMatch "^(.*_)?(password|token|api_key|api_secret|auth_secret|client_secret|credentials|routing_key|service_key|user_key|webhook_url)$|^slack_api_url$" $key }}
prometheus.alertmanager.config.{{ $.path }} has {{ $key }} in the values, where everybody who reads them finds it: put it into a Secret, name that in prometheus.alertmanager.secrets, and set {{ $key }}_file to /etc/alertmanager/secrets/<Secret>/<key>.
{{- else if and (hasSuffix "_file" $key) (hasPrefix "/etc/alertmanager/secrets/" $value) }}
{{- $secret := index (splitList "/" $value) 4 }}
{{- if not (has $secret $.secrets) }}
prometheus.alertmanager.config.{{ $.path }} reads {{ $value }}, but prometheus.alertmanager.secrets does not name Secret {{ $secret }}: add it there.
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
