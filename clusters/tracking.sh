#!/usr/bin/env bash
# The MLflow server of the cluster, on the head node: tracking.sh start | stop. `start` leaves one that answers alone.
#
# Runs are kept in SQLite on the head's own disc, or where GANATOMY_TRACKING_STORE says, for example
# postgresql://ganatomy@db.lab/mlflow (its password in ~/.pgpass, and never in the address; `pip install
# 'psycopg[binary]'` on the head). Artefacts go through the server, so no node needs to reach the folder they lie in. It
# listens on the head's address only, and answers only to that address and to the names in GANATOMY_TRACKING_NAMES
# (comma-separated). Whoever reaches that port can read, change and delete every run, and name another champion.
# GANATOMY_TRACKING_AUTH=1 asks for a name and a password (MLflow's own): the first is admin's, made at the first start in
# admin-password of the server's folder.
set -euo pipefail
. ~/.ganatomy.sh
folder=${GANATOMY_TRACKING_FOLDER:-$HOME/tracking}
store=${GANATOMY_TRACKING_STORE:-sqlite:///$folder/mlflow.db}
name=$(hostname)

answers() { python -c "import sys, urllib.request as u; u.urlopen('$MLFLOW_TRACKING_URI/health', timeout=5)" 2>/dev/null; }

# What only the server and the head's user may know: made once, readable by its owner alone.
made_once() {
  [ -s "$folder/$1" ] || (umask 077; python -c 'import secrets; print(secrets.token_urlsafe(24))' > "$folder/$1")
  cat "$folder/$1"
}

case ${1:-} in
start)
  if [[ $store == *://*:*@* ]]; then
    echo "GANATOMY_TRACKING_STORE holds a password, which stands in cluster.yaml and in commands; put it into ~/.pgpass" >&2
    exit 2
  fi
  if answers; then exit 0; fi
  mkdir -p "$folder"
  chmod 700 "$folder"
  hosts=localhost:5000,127.0.0.1:5000,$GANATOMY_HEAD:5000,$name:5000,$name.*:5000
  for other in $(tr , ' ' <<< "${GANATOMY_TRACKING_NAMES:-}"); do hosts+=,$other,$other:5000; done
  guard=()
  if [ -n "${GANATOMY_TRACKING_AUTH:-}" ]; then # by the environment of the server alone, and never in a command
    MLFLOW_AUTH_ADMIN_PASSWORD=$(made_once admin-password)
    MLFLOW_FLASK_SERVER_SECRET_KEY=$(made_once session-key)
    MLFLOW_AUTH_CONFIG_PATH=$folder/auth.ini
    printf '%s\n' '[mlflow]' 'default_permission = READ' "database_uri = sqlite:///$folder/users.db" 'admin_username = admin' \
      'authorization_function = mlflow.server.auth:authenticate_request_basic_auth' > "$folder/auth.ini"
    export MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_AUTH_CONFIG_PATH
    guard=(--app-name basic-auth)
  fi
  MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_BACKEND_STORE_URI=$store \
    setsid nohup mlflow server --host "$GANATOMY_HEAD" --port 5000 --workers 1 --allowed-hosts "$hosts" \
    "${guard[@]}" --artifacts-destination "$folder/artifacts" \
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
