#!/usr/bin/awk -f
# Slurm's nodes as targets of Prometheus (file_sd), from `scontrol -o show nodes`:
#
#   scontrol -o show nodes | awk -f slurm-targets.awk >nodes.json.new && mv nodes.json.new nodes.json
#
# Run by cron on a host where Slurm's commands are; Prometheus reads the file anew by itself. Where
# scontrol answers nothing the exit status is 1, and the old file stays. Cloud nodes that are powered
# down and nodes that are only planned are left out: nobody answers there.
# -v port=9816: the exporter's port.
BEGIN {
  if (port == "") port = 9816
}
/^NodeName=/ {
  delete said
  for (i = 1; i <= NF; i++) {
    name = $i
    sub(/=.*/, "", name)
    # the first of a name: what follows Reason= and Comment= is anybody's text
    if (!(name in said)) said[name] = substr($i, length(name) + 2)
  }
  if (said["State"] ~ /POWERED_DOWN|POWERING_DOWN|FUTURE/) next
  node = said["NodeName"]
  address = said["NodeAddr"] == "" ? node : said["NodeAddr"]
  if (node address !~ /^[A-Za-z0-9._:-]+$/) next
  if (address ~ /:/) address = "[" address "]"
  partitions = said["Partitions"]
  gsub(/[^A-Za-z0-9._,-]/, "", partitions)
  printf "%s\n  {\"targets\": [\"%s:%s\"], \"labels\": {\"instance\": \"%s\", \"slurm_partitions\": \"%s\"}}", \
    (found++ ? "," : "["), address, port, node, partitions
}
END {
  if (!found) exit 1
  print "\n]"
}
