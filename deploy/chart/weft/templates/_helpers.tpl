{{/* Labels of every object; selectors use weft.selector, which must never change. */}}
{{- define "weft.labels" -}}
app.kubernetes.io/part-of: weft
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- if not .Values.plain }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
{{- end }}

{{- define "weft.selector" -}}
app.kubernetes.io/name: weft
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "weft.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end }}

{{/* Where agents ask for certificates; empty if nowhere. */}}
{{- define "weft.authority" -}}
{{- if .Values.certificateAuthority.address -}}
{{- .Values.certificateAuthority.address -}}
{{- else if .Values.controller.issuer -}}
{{- printf "weft-controller.%s.svc:15012" .Release.Namespace -}}
{{- end -}}
{{- end }}

{{/* The documents of a file, each with the chart's labels; what names the namespace weft-system names the release's.
   And what names the root's Secret names the one of the values. */}}
{{- define "weft.documents" -}}
{{- $root := .root -}}
{{- range $text := splitList "\n---\n" (.root.Files.Get .file | replace "[weft-root]" (printf "[%s]" .root.Values.controller.rootSecret)) }}
{{- $object := fromYaml $text }}
{{- if and $object (ne (get $object "kind") "Namespace") }}
{{- $labels := fromYaml (include "weft.labels" $root) }}
{{- $_ := set $object.metadata "labels" (merge (default (dict) $object.metadata.labels) $labels) }}
{{- if $object.metadata.namespace }}{{ $_ := set $object.metadata "namespace" $root.Release.Namespace }}{{ end }}
{{- range $object.subjects }}{{ $_ := set . "namespace" $root.Release.Namespace }}{{ end }}
{{- with $.annotations }}
{{- $_ := set $object.metadata "annotations" (merge (default (dict) $object.metadata.annotations) .) }}
{{- end }}
---
{{ toYaml $object }}
{{- end }}
{{- end }}
{{- end }}
