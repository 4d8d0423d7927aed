// Only names and checks the source of Argo Workflows: it is built as a module of its own, with the versions that its
// own go.mod and go.sum pin.
module iml4e.local/argo

go 1.25.7

require github.com/argoproj/argo-workflows/v4 v4.0.5
