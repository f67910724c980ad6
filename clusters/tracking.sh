#!/usr/bin/env bash
# The MLflow server of the cluster, on the head node: tracking.sh start | stop. `start` leaves one that answers alone.
#
# Runs are kept in SQLite on the head's own disc, or where GANATOMY_TRACKING_STORE says, for example
# postgresql://ganatomy@db.lab/mlflow (its password in ~/.pgpass; `pip install 'psycopg[binary]'` on the head). Artefacts
# go through the server, so no node needs to reach the folder they lie in. It listens on the head's address only, and
# answers only to that address and to the names in GANATOMY_TRACKING_NAMES (comma-separated).
set -euo pipefail
. ~/.ganatomy.sh
folder=${GANATOMY_TRACKING_FOLDER:-$HOME/tracking}
store=${GANATOMY_TRACKING_STORE:-sqlite:///$folder/mlflow.db}
name=$(hostname)

answers() { python -c "import sys, urllib.request as u; u.urlopen('$MLFLOW_TRACKING_URI/health', timeout=5)" 2>/dev/null; }

case ${1:-} in
start)
  if answers; then exit 0; fi
  mkdir -p "$folder"
  chmod 700 "$folder"
  hosts=localhost:5000,127.0.0.1:5000,$GANATOMY_HEAD:5000,$name:5000,$name.*:5000
  for other in $(tr , ' ' <<< "${GANATOMY_TRACKING_NAMES:-}"); do hosts+=,$other,$other:5000; done
  MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    setsid nohup mlflow server --host "$GANATOMY_HEAD" --port 5000 --workers 1 --allowed-hosts "$hosts" \
    --backend-store-uri "$store" --artifacts-destination "$folder/artifacts" \
    > "$folder/server.log" 2>&1 < /dev/null &
  echo $! > "$folder/pid"
  for _ in $(seq 240); do
    if answers; then exit 0; fi
    if ! kill -0 "$(cat "$folder/pid")" 2>/dev/null; then break; fi
    sleep 1
  done
  echo "the tracking server does not answer at $MLFLOW_TRACKING_URI; its log:" >&2
  tail -n 5 "$folder/server.log" >&2
  exit 1 ;;
stop)
  if [ -f "$folder/pid" ]; then
    group=-$(cat "$folder/pid")
    kill -- "$group" 2>/dev/null || true
    for _ in $(seq 40); do kill -0 -- "$group" 2>/dev/null || break; sleep 0.5; done
    kill -9 -- "$group" 2>/dev/null || true
    rm "$folder/pid"
  fi ;;
*)
  echo "usage: tracking.sh start | stop" >&2
  exit 2 ;;
esac
