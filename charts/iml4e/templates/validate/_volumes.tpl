{{- /* Changes of existing volumes that Kubernetes would refuse. Without a cluster there are no findings. */}}
{{- define "iml4e.bytes" -}}
{{- $units := dict "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 }}
{{- mulf (regexFind "^[0-9.]+" .) (get $units (regexFind "[a-zA-Z]+$" .) | default 1) }}
{{- end }}

{{- define "iml4e.findings.volumes" }}
{{- $volumes := dict }}
{{- range .Chart.Dependencies }}
{{- $part := .Name }}
{{- with (index $.Values $part).persistence }}{{ $_ := set $volumes $part . }}{{ end }}
{{- if eq $part "prometheus" }}{{ $_ := set $volumes "prometheus.alertmanager" $.Values.prometheus.alertmanager.persistence }}{{ end }}
{{- end }}
{{- range $part, $wanted := $volumes }}
{{- $set := printf "%s-%s" $.Release.Name (trimPrefix "prometheus." $part) }}
{{- $name := printf "data-%s-0" $set }}
{{- with lookup "v1" "PersistentVolumeClaim" $.Release.Namespace $name }}
{{- /* a number without a unit is a float to Helm */}}
{{- $size := kindIs "float64" $wanted.size | ternary ($wanted.size | toJson) (toString $wanted.size) }}
{{- $there := .spec.resources.requests.storage }}
{{- $class := $wanted.storageClass | default $.Values.global.storageClass }}
{{- $classThere := .spec.storageClassName | default "" }}
{{- if and (eq (dig "status" "phase" "" .) "Pending") (not .spec.volumeName) }}
{{- /* without a volume there is no data, and both can go. The StatefulSet says whether the class is the cluster's default, which a claim names */}}
{{- $made := lookup "apps/v1" "StatefulSet" $.Release.Namespace $set | default dict }}
{{- $former := empty $class | ternary "" $classThere }}
{{- with $made }}{{ $former = (first .spec.volumeClaimTemplates).spec.storageClassName | default "" }}{{ end }}
{{- if or (ne $class $former) (ne (include "iml4e.bytes" $size | float64) (include "iml4e.bytes" $there | float64)) }}
Claim {{ $name }} waits for a volume of storage class {{ quote $classThere }} with {{ $there }}, and {{ $part }}.persistence asks for {{ with $class }}class {{ quote . }}{{ else }}the default class{{ end }} with {{ $size }}. Nothing was changed. The claim has no data: remove it, then repeat this command: kubectl -n {{ $.Release.Namespace }} delete {{ if $made }}statefulset/{{ $set }} {{ end }}pvc/{{ $name }}
{{- end }}
{{- else }}
{{- if and $class (ne $class $classThere) }}
Volume {{ $name }} is of storage class {{ quote $classThere }} and cannot change to {{ quote $class }}: set {{ $part }}.persistence.storageClass to {{ quote $classThere }}, or move the data to a new volume (docs/install.md, Volumes).
{{- end }}
{{- if lt (include "iml4e.bytes" $size | float64) (include "iml4e.bytes" $there | float64) }}
Volume {{ $name }} has {{ $there }} and cannot shrink to {{ $size }}: set {{ $part }}.persistence.size to {{ $there }}.
{{- end }}
{{- if gt (include "iml4e.bytes" $size | float64) (include "iml4e.bytes" $there | float64) }}
Volume {{ $name }} has {{ $there }}, and {{ $part }}.persistence.size asks for {{ $size }}. Nothing was changed. Grow the volume, then repeat this command (a storage class without allowVolumeExpansion refuses that: docs/install.md, Volumes, has another way): kubectl -n {{ $.Release.Namespace }} patch pvc {{ $name }} -p '{"spec":{"resources":{"requests":{"storage":"{{ $size }}"}}}}'
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
