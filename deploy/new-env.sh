#!/bin/sh
# Writes .env beside docker-compose.yml: .env.example with a secret of its own behind every name that has none.
set -eu
cd "$(dirname "$0")/.."
if [ -e .env ]; then
    echo ".env is there already, and what it names is in use: the database keeps its first password. Remove it yourself to begin anew" >&2
    exit 1
fi
umask 077
while IFS= read -r line; do
    case $line in
        POSTGRES_PASSWORD= | RAY_AUTH_TOKEN= | FIXNORM_ADMIN_TOKEN= | GRAFANA_PASSWORD=)
            printf '%s%s\n' "$line" "$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')" ;;
        *) printf '%s\n' "$line" ;;
    esac
done < .env.example > .env.part
mv .env.part .env
echo "wrote .env, which only you can read"
