#!/bin/sh
# Makes the certificates of this folder anew, with OpenSSL 3. README.md says what each is for.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

# authority NAME: a self-signed certificate; its key stays in the work folder.
authority() {
  key "$work/$1-key.pem"
  mkdir "$work/$1"
  : >"$work/$1/index.txt"
  cat >"$work/$1/ca.cnf" <<CONFIG
[ca]
default_ca = own
[own]
database = $work/$1/index.txt
new_certs_dir = $work/$1
rand_serial = yes
default_md = sha256
unique_subject = no
policy = any
copy_extensions = copy
[any]
commonName = supplied
[req]
distinguished_name = req
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
CONFIG
  openssl req -new -config "$work/$1/ca.cnf" -key "$work/$1-key.pem" -subj "/CN=galore test $1" -out "$work/$1.csr"
  openssl ca -batch -notext -config "$work/$1/ca.cnf" -selfsign -extensions authority -keyfile "$work/$1-key.pem" \
    -startdate 20200101000000Z -enddate 21200101000000Z -in "$work/$1.csr" -out "$1.pem" 2>/dev/null
}

# issue AUTHORITY NAME NAMES START END: a certificate NAME.pem and its key NAME-key.pem.
issue() {
  [ -f "$2-key.pem" ] && rm "$2-key.pem"
  key "$2-key.pem"
  openssl req -new -config "$work/$1/ca.cnf" -key "$2-key.pem" -subj "/CN=galore test $2" \
    -addext "subjectAltName=$3" -out "$work/$2.csr"
  openssl ca -batch -notext -config "$work/$1/ca.cnf" -cert "$1.pem" -keyfile "$work/$1-key.pem" \
    -startdate "$4" -enddate "$5" -in "$work/$2.csr" -out "$2.pem" 2>/dev/null
}

authority ca
authority stranger-ca
here=DNS:localhost,IP:127.0.0.1
issue ca server "$here" 20200101000000Z 21200101000000Z
issue ca renewed "$here" 20200101000000Z 21200101000000Z
issue ca other-host DNS:train.example.org 20200101000000Z 21200101000000Z
issue ca expired "$here" 20200101000000Z 20210101000000Z
issue ca trainer DNS:trainer 20200101000000Z 21200101000000Z
issue stranger-ca stranger "$here" 20200101000000Z 21200101000000Z
