#!/usr/bin/env bash
# Run a buildah image as in production and request a score:
#
#   deploy/docker/try.sh IMAGE BUNDLE    e.g. deploy/docker/try.sh localhost/fraud artifacts/bundle
#
# Read-only root file system, the image's user without capabilities, own process and network namespaces (it listens on
# 0.0.0.0, reachable only from its own loopback). Needs root and buildah; options in BUILDAH_OPTIONS, e.g. "--root DIR".
# Prints each check; the exit code is 0 if all of them passed.
set -euo pipefail
image=${1:?usage: try.sh IMAGE BUNDLE} bundle=$(realpath "${2:?usage: try.sh IMAGE BUNDLE}")
read -ra options <<<"${BUILDAH_OPTIONS:-}"
work=$(mktemp -d)
container=$(buildah "${options[@]}" from "$image")
trap 'buildah "${options[@]}" rm "$container" >/dev/null; rm -rf "$work"' EXIT
root=$(buildah "${options[@]}" mount "$container")
format='{{range .OCIv1.Config.Env}}{{println .}}{{end}}'
buildah "${options[@]}" inspect --format "$format" "$container" | sed '/^$/d' >"$work/env"
user=$(buildah "${options[@]}" inspect --format '{{.OCIv1.Config.User}}' "$container")
key=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
printf '%s gateway\n' "$(printf %s "$key" | sha256sum | cut -d' ' -f1)" >"$work/api_keys"
chmod 0755 "$work"
chmod 0644 "$work/api_keys"
cp -r "$bundle" "$work/bundle" # where the image's user can read it
chmod -R a+rX "$work/bundle"
cat >"$work/request.json" <<'JSON'
{"amount": 250.0, "hour": 3, "distance": 900.0, "device_score": 0.9, "country_mismatch": true}
JSON

cat >"$work/inside" <<'INSIDE'
set -euo pipefail
work=$1 root=$2 bundle=$3 user=$4 key=$5
ip link set lo up
mount --bind "$root" "$root"
mkdir -p "$root/model" "$root/run/secrets"
touch "$root/run/secrets/api_keys"
mount -o remount,bind,ro "$root"
mount --bind -o ro "$bundle" "$root/model"
mount --bind -o ro "$work/api_keys" "$root/run/secrets/api_keys"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=0700,uid=${user%%:*},gid=${user##*:} tmpfs "$root/var/lib/fraud"
mount -t tmpfs tmpfs "$root/dev"
for device in null zero full random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777,size=2g tmpfs "$root/dev/shm"
mount -t proc proc "$root/proc"
mapfile -t environment <"$work/env"
cd "$root/app"
as_user() {
    setpriv --no-new-privs chroot --userspec="$user" "$root" env -i -C /app "${environment[@]}" "$@"
}
echo "user: $(as_user python3 -c 'import os; print(os.getuid(), os.getgid(), os.getgroups())')"
echo "effective capabilities: $(as_user grep CapEff /proc/self/status | cut -f2)"
for place in / /app /venv /etc; do
    if as_user touch "$place/written" 2>/dev/null; then echo "error: $place can be written" >&2; exit 1; fi
done
echo "writing to /, /app, /venv, /etc: refused"
if as_user env -u FRAUD_API_KEY_FILE python -m deploy.serving >"$work/open.log" 2>&1; then
    echo "error: it starts without keys" >&2; exit 1
fi
echo "without keys: $(tail -1 "$work/open.log" | cut -c1-160)"
began=$SECONDS
as_user python -m deploy.serving >"$work/serving.log" 2>&1 &
serving=$!
until as_user python -m deploy.serving --check; do
    kill -0 $serving 2>/dev/null || { cat "$work/serving.log" >&2; exit 1; }
    [ $((SECONDS - began)) -lt 240 ] || { cat "$work/serving.log" >&2; echo "error: not ready" >&2; exit 1; }
    sleep 1
done
echo "ready after $((SECONDS - began)) s"
ask() {
    as_user python3 - "$1" "$(cat "$work/request.json")" <<'PY'
import sys, urllib.error, urllib.request
headers = {"Content-Type": "application/json", **({"X-API-Key": sys.argv[1]} if sys.argv[1] else {})}
try:
    with urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:8000/score", sys.argv[2].encode(), headers)) as reply:
        print(reply.status, reply.read().decode()[:400])
except urllib.error.HTTPError as error:
    print(error.code)
PY
}
echo "/score without a key: $(ask '')"
answer=$(ask "$key")
echo "/score: $answer"
processes=$(ps -eo user:20,comm --no-headers | awk -v own="${user%%:*}" '$1 == own' | wc -l)
echo "processes as that user: $processes"
kill -TERM "$(pgrep -f -o 'python -m deploy.serving')"
wait $serving || true
tail -1 "$work/serving.log"
[ "${answer%% *}" = 200 ]
INSIDE
unshare --mount-proc --pid --net --fork --kill-child bash "$work/inside" "$work" "$root" "$work/bundle" "$user" "$key"
