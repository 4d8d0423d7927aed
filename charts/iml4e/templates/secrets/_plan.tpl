{{/* Labels of the Job that makes Secrets, and of what it needs. */}}
{{- define "iml4e.secrets.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: secrets
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: secrets
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Labels of a Secret. Takes a dict of `root` and `part`. No version of the chart: a Secret outlives many. */}}
{{- define "iml4e.secrets.labelsOfSecret" -}}
app.kubernetes.io/name: {{ .part }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .part }}
app.kubernetes.io/part-of: iml4e
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{/* Annotations of every Secret: passwords stay with the volumes that they belong to, whatever tool removes the release. */}}
{{- define "iml4e.secrets.annotations" -}}
helm.sh/resource-policy: keep
argocd.argoproj.io/compare-options: IgnoreExtraneous
argocd.argoproj.io/sync-options: Prune=false,Delete=false
{{- end }}

{{/* The Secrets that the Job makes, as YAML: all that parts of this release need and no existingSecret replaces. */}}
{{- define "iml4e.secrets.plan" -}}
secrets:
{{- if .Values.minio.enabled }}
{{- $labels := include "iml4e.secrets.labelsOfSecret" (dict "root" . "part" "minio") }}
{{- if not .Values.minio.existingSecret }}
  - name: {{ .Release.Name }}-minio
    type: Opaque
    labels:
      {{- $labels | nindent 6 }}
    annotations:
      {{- include "iml4e.secrets.annotations" . | nindent 6 }}
    fixed:
      rootUser: admin
    generated:
      rootPassword: 32
{{- end }}
{{- range .Values.minio.consumers }}
{{- if not .existingSecret }}
  - name: {{ $.Release.Name }}-s3-{{ .name }}
    type: Opaque
    labels:
      {{- $labels | nindent 6 }}
    annotations:
      {{- include "iml4e.secrets.annotations" $ | nindent 6 }}
    {{- if eq .name "models" }}
    # annotations that follow the values: a KServe that another release runs has another store configured
    facts:
      serving.kserve.io/s3-endpoint: {{ $.Release.Name }}-minio.{{ $.Release.Namespace }}.svc:9000
      serving.kserve.io/s3-usehttps: "0"
      serving.kserve.io/s3-region: {{ $.Values.global.s3.region | quote }}
    {{- end }}
    # a rotation changes it to <name>.2 and back: MinIO knows no second secret of one access key
    alternating:
      AWS_ACCESS_KEY_ID: {{ .name | quote }}
    generated:
      AWS_SECRET_ACCESS_KEY: 40
{{- end }}
{{- end }}
{{- end }}
{{- if .Values.mariadb.enabled }}
{{- $labels := include "iml4e.secrets.labelsOfSecret" (dict "root" . "part" "mariadb") }}
{{- if not .Values.mariadb.existingSecret }}
  - name: {{ .Release.Name }}-mariadb
    type: Opaque
    labels:
      {{- $labels | nindent 6 }}
    annotations:
      {{- include "iml4e.secrets.annotations" . | nindent 6 }}
    generated:
      rootPassword: 32
{{- end }}
{{- if and .Values.mariadb.metrics.enabled (not .Values.mariadb.metrics.existingSecret) }}
  - name: {{ .Release.Name }}-mariadb-metrics
    type: Opaque
    labels:
      {{- $labels | nindent 6 }}
    annotations:
      {{- include "iml4e.secrets.annotations" . | nindent 6 }}
    fixed:
      username: iml4e_metrics
    generated:
      password: 32
{{- end }}
{{- range .Values.mariadb.databases }}
{{- if not .existingSecret }}
  - name: {{ $.Release.Name }}-db-{{ replace "_" "-" .name }}
    type: Opaque
    labels:
      {{- $labels | nindent 6 }}
    annotations:
      {{- include "iml4e.secrets.annotations" $ | nindent 6 }}
    fixed:
      username: {{ .user | quote }}
      database: {{ .name | quote }}
    generated:
      password: 32
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.mlflow.enabled (not .Values.mlflow.webhooks.existingSecret) }}
  - name: {{ .Release.Name }}-mlflow-webhooks
    type: Opaque
    labels:
      {{- include "iml4e.secrets.labelsOfSecret" (dict "root" . "part" "mlflow") | nindent 6 }}
    annotations:
      {{- include "iml4e.secrets.annotations" . | nindent 6 }}
    # not `generated`: a rotation leaves it alone, as MLflow reads with a new key nothing that it encrypted with the former one
    lasting:
      encryptionKey: 32
{{- end }}
{{- if and .Values.grafana.enabled .Values.grafana.server.enabled (not .Values.grafana.existingSecret) }}
  - name: {{ .Release.Name }}-grafana
    type: Opaque
    labels:
      {{- include "iml4e.secrets.labelsOfSecret" (dict "root" . "part" "grafana") | nindent 6 }}
    annotations:
      {{- include "iml4e.secrets.annotations" . | nindent 6 }}
    fixed:
      adminUser: admin
    generated:
      adminPassword: 32
{{- end }}
{{- if and (.Values.notebooks).enabled (not .Values.notebooks.login.existingSecret) }}
  - name: {{ .Release.Name }}-notebooks
    type: Opaque
    labels:
      {{- include "iml4e.secrets.labelsOfSecret" (dict "root" . "part" "notebooks") | nindent 6 }}
    annotations:
      {{- include "iml4e.secrets.annotations" . | nindent 6 }}
    generated:
      password: 32
      adminPassword: 40
      cookieSecret: 64
{{- end }}
{{- if include "iml4e.secrets.certificate" . }}
  - name: {{ .Release.Name }}-kserve-webhook
    type: kubernetes.io/tls
    labels:
      {{- include "iml4e.secrets.labelsOfSecret" (dict "root" . "part" "kserve") | nindent 6 }}
    annotations:
      {{- include "iml4e.secrets.annotations" . | nindent 6 }}
    host: {{ .Release.Name }}-kserve-webhook.{{ .Release.Namespace }}.svc
    trustedBy:
      - mutatingwebhookconfigurations/{{ .Release.Name }}-kserve
      - validatingwebhookconfigurations/{{ .Release.Name }}-kserve
{{- end }}
{{- end }}

{{/* Not empty where the Job makes the certificate of KServe's webhooks. */}}
{{- define "iml4e.secrets.certificate" -}}
{{- if .Values.kserve.enabled }}
{{- if and .Values.kserve.controller.enabled (has .Values.kserve.webhook.certificate.mode (list "job" "helm")) }}yes{{ end }}
{{- end }}
{{- end }}
