/**
 * `npm run check-deploy`: deploy/ against the schemas of Kubernetes and of the Compose Specification, which are fetched
 * from PyPI, and nginx's file with nginx where it is installed. Needs python3 with venv. What needs no download is
 * checked by `npm test`.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ROOT } from './setup.mjs';

const DEPLOY = join(ROOT, 'deploy');
const KUBERNETES = 'kubernetes-validate==1.37.0'; // brings the schemas, jsonschema and PyYAML
const COMPOSE = 'docker-compose==1.29.2'; // its wheel holds compose_spec.json of 2021, which lacks `name`

const CHECK_COMPOSE = `
import glob, json, sys, zipfile, jsonschema, yaml
wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + '/docker_compose*.whl')[0])
schema = json.loads(wheel.read('compose/config/compose_spec.json'))
file = yaml.safe_load(open(sys.argv[2]))
assert file.pop('name')
faults = list(jsonschema.Draft7Validator(schema).iter_errors(file))
for fault in faults: print('/'.join(map(str, fault.path)), fault.message)
sys.exit(len(faults) > 0)
`;

function run(program, ...args) {
  const { status, error, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' });
  if (error) throw error;
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}:\n${stdout}${stderr}`);
}

function main(folder) {
  const python = join(folder, 'bin/python');
  run('python3', '-m', 'venv', folder);
  run(python, '-m', 'pip', 'install', '--quiet', KUBERNETES);
  run(python, '-m', 'pip', 'download', '--quiet', '--no-deps', '--dest', folder, COMPOSE);
  const manifests = readdirSync(join(DEPLOY, 'kubernetes')).filter((name) => !name.endsWith('-patch.yaml'));
  const paths = manifests.map((name) => join(DEPLOY, 'kubernetes', name));
  run(join(folder, 'bin/kubernetes-validate'), '--strict', ...paths);
  say(`kubernetes: ${manifests.join(', ')} are valid`);
  run(python, '-c', CHECK_COMPOSE, folder, join(DEPLOY, 'compose.yaml'));
  say('compose.yaml is valid');
  if (spawnSync('nginx', ['-v']).error) return say('nginx is not installed: its file was not checked');
  const key = join(folder, 'key.pem');
  const cert = join(folder, 'cert.pem');
  run(
    'openssl',
    'req',
    '-x509',
    '-newkey',
    'rsa:2048',
    '-nodes',
    '-subj',
    '/CN=x',
    '-keyout',
    key,
    '-out',
    cert,
  );
  const proxy = readFileSync(join(DEPLOY, 'proxy/nginx.conf'), 'utf8')
    .replace(/\S+fullchain\.pem/, cert)
    .replace(/\S+privkey\.pem/, key);
  writeFileSync(join(folder, 'galore.conf'), proxy);
  const around = `pid ${folder}/pid; error_log ${folder}/log; events {} http { access_log off; include ${folder}/galore.conf; }`;
  writeFileSync(join(folder, 'nginx.conf'), around);
  run('nginx', '-t', '-c', join(folder, 'nginx.conf'));
  return say('nginx.conf is valid');
}

function say(text) {
  process.stdout.write(`${text}\n`);
}

const folder = mkdtempSync(join(tmpdir(), 'galore-check-deploy-'));
try {
  main(folder);
} catch (error) {
  console.error(`check-deploy: ${error.message}`);
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
