#!/bin/sh
# Makes what the coordinators and trainers of deploy/ share, in deploy/secrets: an authority, a certificate for the
# coordinators, and a join token. Names given are added to the certificate: ./make-secrets.sh train.example.org
#   GALORE  the command (default galore)
set -eu
umask 077
cd "$(dirname "$0")"
mkdir secrets # a second time would lock out everybody who has the first: remove the folder if that is meant
cd secrets
names='DNS:localhost,IP:127.0.0.1,DNS:coordinator-1,DNS:coordinator-2'
names="$names,DNS:coordinator-0.coordinator,DNS:coordinator-1.coordinator"
for name in "$@"; do names="$names,DNS:$name"; done
openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=galore-authority -keyout authority-key.pem -out ca.pem
openssl req -newkey rsa:2048 -nodes -subj /CN=galore -keyout key.pem -out request.pem
printf 'subjectAltName=%s\n' "$names" >extensions
openssl x509 -req -in request.pem -CA ca.pem -CAkey authority-key.pem -CAcreateserial -days 825 \
  -extfile extensions -out cert.pem
rm request.pem extensions ca.srl
mkdir authority
mv authority-key.pem authority/ # signs others; no machine of the run needs it
${GALORE:-galore} token create tokens.json --role trainer --out trainer.token
# In the containers everything runs as user 1000.
if [ "$(id -u)" = 0 ]; then chown 1000:1000 -- *; fi
echo "deploy/secrets: ca.pem cert.pem key.pem tokens.json trainer.token; keep authority/ elsewhere"
