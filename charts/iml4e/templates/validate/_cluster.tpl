{{- /* What the cluster has that another release owns: Helm's own words name neither reason nor cure. Nothing is looked up without one. */}}
{{- define "iml4e.findings.cluster" }}
{{- $kserve := false }}
{{- range .Chart.Dependencies }}
{{- if eq .Name "kserve" }}{{ $kserve = $.Values.kserve.controller.enabled }}{{ end }}
{{- end }}
{{- range .Chart.Dependencies }}
{{- if or (has .Name (list "gateway" "prometheus")) (and (eq .Name "kserve") $kserve) }}
{{- $name := printf "%s-%s" $.Release.Name .Name }}
{{- with include "iml4e.otherOwner" (dict "object" (lookup "rbac.authorization.k8s.io/v1" "ClusterRole" "" $name) "Release" $.Release) }}
{{ . }} owns the cluster-wide objects of this name, ClusterRole {{ $name }} for example: choose another release name.
{{- break }}
{{- end }}
{{- end }}
{{- end }}
{{- if $kserve }}
{{- if .Capabilities.APIVersions.Has "serving.kserve.io/v1alpha1/ClusterServingRuntime" }}
{{- with include "iml4e.otherOwner" (dict "object" (lookup "serving.kserve.io/v1alpha1" "ClusterServingRuntime" "" "mlflow") "Release" .Release) }}
{{ . }} runs KServe's controller, and there can be one in a cluster: set kserve.controller.enabled=false, and install with --skip-crds.
{{- end }}
{{- end }}
{{- /* its name in KServe's own charts and manifests */}}
{{- if lookup "admissionregistration.k8s.io/v1" "ValidatingWebhookConfiguration" "" "inferenceservice.serving.kserve.io" }}
A KServe that is not of this chart runs in the cluster (ValidatingWebhookConfiguration inferenceservice.serving.kserve.io): set kserve.controller.enabled=false, and install with --skip-crds.
{{- end }}
{{- end }}
{{- range .Chart.Dependencies }}
{{- if eq .Name "pipelines" }}
{{- with include "iml4e.otherOwner" (dict "object" (lookup "v1" "Service" $.Release.Namespace "ml-pipeline") "Release" $.Release) }}
{{ . }} has Kubeflow Pipelines, and there can be one in a namespace: set pipelines.enabled=false, or choose another namespace.
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* `Release … in namespace …` where an object belongs to another release: dict "object" (lookup …) "Release" .Release */}}
{{- define "iml4e.otherOwner" -}}
{{- $annotations := dig "metadata" "annotations" (dict) .object }}
{{- $name := index $annotations "meta.helm.sh/release-name" }}
{{- $namespace := index $annotations "meta.helm.sh/release-namespace" }}
{{- if and $name (or (ne $name .Release.Name) (ne $namespace .Release.Namespace)) }}Release {{ $name }} in namespace {{ $namespace }}{{ end }}
{{- end }}
