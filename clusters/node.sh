#!/usr/bin/env bash
# Run on a node before Ray starts there: node.sh SHARED [HEAD], where SHARED is the folder that all nodes see under the
# same path, and HEAD the head node's address (left out on the head itself). Writes what every shell and every Ray process
# of this node needs to know to ~/.ganatomy.sh, and has ~/.bashrc read it. A second time it changes nothing.
set -euo pipefail
shared=$1 head=${2:-}
if [ -z "$head" ]; then # the launcher leaves cluster.yaml here; a cloud's has no addresses in it
  head=$(grep -o '"head_ip": "[^"]*"' ~/ray_bootstrap_config.yaml | cut -d'"' -f4 || true)
  head=${head:-$(hostname -I | cut -d' ' -f1)}
fi

# gloo and NCCL otherwise bind to whatever the host's own name resolves to, which is often 127.0.0.1. The interface
# is the one that carries the head's address (on the head), or leads to it (elsewhere).
address=$(getent ahostsv4 "$head" | awk '{print $1; exit}')
interface=$(ip -o -4 addr show to "${address:-$head}/32" | awk '{print $2; exit}')
interface=${interface:-$(ip -o route get "${address:-$head}" | sed -n 's/.* dev \([^ ]*\).*/\1/p')}

cat > ~/.ganatomy.sh.new <<END
export PATH="\$HOME/ganatomy/.venv/bin:\$PATH"
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
export GLOO_SOCKET_IFNAME=$interface NCCL_SOCKET_IFNAME=$interface
export GANATOMY_HEAD=${address:-$head} GANATOMY_WORKSPACE=$shared/workspace
export MLFLOW_TRACKING_URI=http://${address:-$head}:5000
END
mv ~/.ganatomy.sh.new ~/.ganatomy.sh
grep -qs '\.ganatomy\.sh' ~/.bashrc || echo '. ~/.ganatomy.sh' >> ~/.bashrc

# Ray refuses a token that it cannot read, and says nothing of one that everybody can.
chmod 700 ~/.ray
chmod 600 ~/.ray/auth_token
