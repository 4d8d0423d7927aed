{{- /* Written by scripts/chart from flows.yaml: do not edit. */}}
{{- /* Rule of egress to pods of this release, or to the address that values name instead of them: dict "pods" "…" "service" "…" "ports"
(list …) "address" "…" "outside" .Values.global.networkPolicy.outside.blocks "Release" .Release */}}
{{- define "kserve.egress" -}}
{{- $url := urlParse .address }}
{{- $own := printf "%s-%s.%s.svc" .Release.Name .service .Release.Namespace }}
{{- $short := list (printf "%s-%s" .Release.Name .service) (trimSuffix ".svc" $own) $own }}
{{- /* SERVICE.NAMESPACE.svc or POD.SERVICE.NAMESPACE.svc. SERVICE.NAMESPACE and SERVICE may be hosts outside as well: both are open then */}}
{{- $service := regexFind "^([^.]+[.]){2,3}svc([.]|$)" $url.hostname }}
{{- $namespace := "" }}
{{- if $service }}
{{- $namespace = index (trimSuffix "." $service | splitList "." | reverse) 1 }}
{{- else if regexMatch "^[-a-z0-9]+([.][-a-z0-9]*[a-z0-9])?$" $url.hostname }}
{{- $namespace = splitList "." $url.hostname | rest | first | default .Release.Namespace }}
{{- end }}
{{- if or (has $url.hostname $short) (hasPrefix (print $own ".") $url.hostname) }}
- to:
    - podSelector:
        matchLabels:
          app.kubernetes.io/name: {{ .pods }}
          app.kubernetes.io/instance: {{ .Release.Name | quote }}
  ports:
    {{- range .ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- else }}
{{- with $namespace }}
# the port of its Service says nothing of the port of its pods
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ . | quote }}
{{- end }}
{{- if and $url.hostname .outside (not $service) }}
- to:
    {{- range .outside }}
    - ipBlock: {{ toJson . }}
    {{- end }}
  ports:
    - port: {{ regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (eq $url.scheme "http" | ternary "80" "443") }}
      protocol: TCP
{{- end }}
{{- end }}
{{- end }}
