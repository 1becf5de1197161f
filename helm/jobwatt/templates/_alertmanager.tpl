{{/* An Alertmanager configuration of `jobwatt alerts render` as the spec of an AlertmanagerConfig: dict config, password. */}}
{{- define "jobwatt.alertmanagerSpec" -}}
{{- $config := .config -}}
{{- $route := fromJson (include "jobwatt.amRoute" $config.route) -}}
{{- /* The operator hangs this route into the site's: it must not take the alerts of others. */ -}}
{{- $_ := set $route "matchers" (list (dict "name" "alertname" "matchType" "=~" "value" "Jobwatt.*")) -}}
{{- $inhibit := list -}}
{{- range $config.inhibit_rules -}}
{{- $source := fromJson (include "jobwatt.amMatchers" .source_matchers) -}}
{{- $target := fromJson (include "jobwatt.amMatchers" .target_matchers) -}}
{{- $inhibit = append $inhibit (dict "sourceMatch" $source.matchers "targetMatch" $target.matchers "equal" .equal) -}}
{{- end -}}
{{- $receivers := list -}}
{{- range $config.receivers -}}
{{- if gt (len .) 2 }}{{ fail (printf "alertmanager.config: receiver %s: only email_configs become an AlertmanagerConfig" .name) }}{{ end -}}
{{- $mails := list -}}
{{- range .email_configs -}}
{{- $mails = append $mails (fromJson (include "jobwatt.amEmail" (dict "email" . "global" $config.global "password" $.password))) -}}
{{- end -}}
{{- $receivers = append $receivers (dict "name" .name "emailConfigs" $mails) -}}
{{- end -}}
{{- $times := list -}}
{{- range $config.time_intervals -}}
{{- $times = append $times (fromJson (include "jobwatt.amTimes" .)) -}}
{{- end -}}
{{- $spec := toYaml (dict "route" $route "inhibitRules" $inhibit "receivers" $receivers "muteTimeIntervals" $times) -}}
{{- /* a bare = is a tag of its own in YAML 1.1, for those who read it so */ -}}
{{- regexReplaceAll `(?m)^([ -]*matchType): (=~?)$` $spec `${1}: "${2}"` -}}
{{- end -}}

{{- define "jobwatt.amRoute" -}}
{{- $names := dict "receiver" "receiver" "group_by" "groupBy" "group_wait" "groupWait" "group_interval" "groupInterval" "repeat_interval" "repeatInterval" "continue" "continue" "active_time_intervals" "activeTimeIntervals" "mute_time_intervals" "muteTimeIntervals" -}}
{{- $route := dict -}}
{{- range $key, $value := . -}}
{{- if eq $key "matchers" -}}
{{- $_ := set $route "matchers" (fromJson (include "jobwatt.amMatchers" $value)).matchers -}}
{{- else if eq $key "routes" -}}
{{- $routes := list -}}
{{- range $value }}{{ $routes = append $routes (fromJson (include "jobwatt.amRoute" .)) }}{{ end -}}
{{- $_ := set $route "routes" $routes -}}
{{- else if hasKey $names $key -}}
{{- $_ := set $route (get $names $key) $value -}}
{{- else -}}
{{- fail (printf "alertmanager.config: a route's %s does not become an AlertmanagerConfig" $key) -}}
{{- end -}}
{{- end -}}
{{- toJson $route -}}
{{- end -}}

{{/* NAME OP "VALUE", the value as JSON and Alertmanager both quote it. */}}
{{- define "jobwatt.amMatchers" -}}
{{- $form := `^\s*([A-Za-z_][A-Za-z0-9_]*)\s*(=~|!~|!=|=)\s*(.*)$` -}}
{{- $matchers := list -}}
{{- range . -}}
{{- if not (regexMatch $form .) }}{{ fail (printf "alertmanager.config: no matcher: %s" .) }}{{ end -}}
{{- $value := regexReplaceAll $form . "${3}" | trim -}}
{{- if hasPrefix "\"" $value }}{{ $value = (fromJson (printf "{\"v\": %s}" $value)).v }}{{ end -}}
{{- $matchers = append $matchers (dict "name" (regexReplaceAll $form . "${1}") "matchType" (regexReplaceAll $form . "${2}") "value" $value) -}}
{{- end -}}
{{- toJson (dict "matchers" $matchers) -}}
{{- end -}}

{{- define "jobwatt.amEmail" -}}
{{- $global := .global -}}
{{- $mail := dict "to" .email.to "smarthost" $global.smtp_smarthost "from" $global.smtp_from -}}
{{- with $global.smtp_hello }}{{ $_ := set $mail "hello" . }}{{ end -}}
{{- if hasKey $global "smtp_require_tls" }}{{ $_ := set $mail "requireTLS" $global.smtp_require_tls }}{{ end -}}
{{- if $global.smtp_auth_username -}}
{{- $secret := required "alertmanager.passwordSecretName: the mail server wants a password (mail.auth_username), and an AlertmanagerConfig reads no file" .password -}}
{{- $_ := set $mail "authUsername" $global.smtp_auth_username -}}
{{- $_ := set $mail "authPassword" (dict "name" $secret "key" "password") -}}
{{- end -}}
{{- if hasKey .email "send_resolved" }}{{ $_ := set $mail "sendResolved" .email.send_resolved }}{{ end -}}
{{- $headers := list -}}
{{- range $key, $value := .email.headers }}{{ $headers = append $headers (dict "key" $key "value" $value) }}{{ end -}}
{{- with $headers }}{{ $_ := set $mail "headers" . }}{{ end -}}
{{- if hasKey .email "html" }}{{ $_ := set $mail "html" .email.html }}{{ end -}}
{{- with .email.text }}{{ $_ := set $mail "text" . }}{{ end -}}
{{- toJson $mail -}}
{{- end -}}

{{/* An AlertmanagerConfig has no time zone, and years from 2000 on; the operator forgets the name of an interval without any. */}}
{{- define "jobwatt.amTimes" -}}
{{- $parts := list -}}
{{- range .time_intervals -}}
{{- if not (has (default "UTC" .location) (list "UTC" "Etc/UTC" "GMT")) -}}
{{- fail (printf "alertmanager.config: an AlertmanagerConfig knows no time zone (%s): give schedule.timezone = \"UTC\" and hours of it in site.toml" .location) -}}
{{- end -}}
{{- $part := dict -}}
{{- range $key, $value := . -}}
{{- if eq $key "times" -}}
{{- $times := list -}}
{{- range $value }}{{ $times = append $times (dict "startTime" .start_time "endTime" .end_time) }}{{ end -}}
{{- $_ := set $part "times" $times -}}
{{- else if eq $key "days_of_month" -}}
{{- $days := list -}}
{{- range $value -}}
{{- $ends := splitList ":" (toString .) -}}
{{- $days = append $days (dict "start" (int (first $ends)) "end" (int (last $ends))) -}}
{{- end -}}
{{- $_ := set $part "daysOfMonth" $days -}}
{{- else if ne $key "location" -}}
{{- $_ := set $part $key $value -}}
{{- end -}}
{{- end -}}
{{- if ne (toString $part.years) "[1970]" }}{{ $parts = append $parts $part }}{{ end -}}
{{- end -}}
{{- toJson (dict "name" .name "timeIntervals" (default (list (dict "years" (list "2000"))) $parts)) -}}
{{- end -}}
