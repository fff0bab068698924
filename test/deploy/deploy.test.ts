/** What of deploy/ can be known without a cluster: that it can be read, and that what it names is there. */
import { execFile } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import { parseAllDocuments } from 'yaml';
import { loadRunConfig } from '../../src/config/load.ts';
import { readPemFiles } from '../../src/files/pem.ts';
import { rowOf } from '#scripts/sizing';

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, '..', '..', '..');
const DEPLOY = join(ROOT, 'deploy');

/** Parsed YAML, looked into by name. */
type Node = { readonly [name: string]: Node } & readonly Node[] & string;

function yaml(text: string): readonly Node[] {
  return parseAllDocuments(text, { merge: true }).map((document) => {
    if (document.errors[0]) throw document.errors[0];
    return document.toJS() as Node;
  });
}

function read(path: string): string {
  return readFileSync(join(DEPLOY, path), 'utf8');
}

function temporaryFolder(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'galore-deploy-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

const kustomization = yaml(read('kustomization.yaml'))[0]!;
const objects = kustomization['resources']!.flatMap((path) => yaml(read(path)));
const ofKind = (kind: string): readonly Node[] => objects.filter((object) => object['kind'] === kind);
const nameOf = (object: Node): string => object['metadata']!['name']!;
/** What Kubernetes itself says of a pod of a StatefulSet. */
const POD_NAME = 'statefulset.kubernetes.io/pod-name';
/** Whether the labels of some pods are those that are looked for. */
const selects = (selector: Node, pods: Node): boolean =>
  Object.entries(selector).every(([name, value]) =>
    name === POD_NAME
      ? /^(.*)-\d$/.exec(value)?.[1] === nameOf(pods)
      : pods['spec']!['template']!['metadata']!['labels']![name] === value,
  );

test('the run file of deploy/ is a run', (t) => {
  const config = loadRunConfig(join(DEPLOY, 'run.yaml'), { workingDir: DEPLOY, homeDir: '/' });
  t.is(config.coordinator.port, 29400);
  t.deepEqual(config.coordinator.tls, {
    cert: '/run/secrets/galore/cert.pem',
    key: '/run/secrets/galore/key.pem',
  });
});

test('every Kubernetes manifest is applied, and every selector finds pods', (t) => {
  const manifests = readdirSync(join(DEPLOY, 'kubernetes')).filter((name) => !name.endsWith('-patch.yaml'));
  t.deepEqual(
    kustomization['resources']!.toSorted(),
    manifests.map((name) => `kubernetes/${name}` as Node).toSorted(),
  );
  const sets = ofKind('StatefulSet');
  t.deepEqual(sets.map(nameOf).toSorted(), ['coordinator', 'nats', 'trainer']);
  const selectors = [
    ...sets.map(({ spec }) => spec!['selector']!['matchLabels']!),
    ...ofKind('Service').map(({ spec }) => spec!['selector']!),
    ...ofKind('PodDisruptionBudget').map(({ spec }) => spec!['selector']!['matchLabels']!),
    ...ofKind('NetworkPolicy').map(({ spec }) => spec!['podSelector']!['matchLabels'] ?? ({} as Node)),
  ];
  for (const selector of selectors)
    t.true(
      sets.some((set) => selects(selector, set)),
      JSON.stringify(selector),
    );
  for (const set of sets) {
    t.true(selects(set['spec']!['selector']!['matchLabels']!, set), nameOf(set));
    t.true(ofKind('Service').some((service) => nameOf(service) === set['spec']!['serviceName']));
  }
  const patched = yaml(read('kubernetes/gpu-patch.yaml'))[0]!;
  t.true(sets.some((set) => nameOf(set) === nameOf(patched)));
});

test('what a pod mounts, reads and is asked at is defined', (t) => {
  const maps = kustomization['configMapGenerator']!.map(({ name }) => name);
  for (const file of kustomization['configMapGenerator']!.flatMap(({ files }) => [...files!])) {
    t.true(existsSync(join(DEPLOY, file)), file);
  }
  for (const { spec } of ofKind('StatefulSet')) {
    const { containers, volumes = [] as unknown as Node } = spec!['template']!['spec']!;
    const claims = spec!['volumeClaimTemplates'] ?? ([] as unknown as Node);
    const mountable = [...volumes.map(({ name }) => name), ...claims.map(nameOf)] as string[];
    for (const { configMap, secret } of volumes) {
      if (configMap) t.true(maps.includes(configMap['name']!));
      if (secret) t.is(secret['secretName'] as string, 'galore');
    }
    for (const container of containers!) {
      const ports = container['ports'] ?? ([] as unknown as Node);
      for (const { name } of container['volumeMounts']!) t.true(mountable.includes(name!), name);
      for (const probe of ['livenessProbe', 'readinessProbe', 'startupProbe']) {
        const port = container[probe]?.['httpGet']?.['port'];
        if (port)
          t.true(
            ports.some(({ name }) => name === port),
            `${probe} ${port}`,
          );
      }
    }
  }
  for (const { spec } of ofKind('Service')) {
    const set = ofKind('StatefulSet').find((each) => selects(spec!['selector']!, each))!;
    const named = set['spec']!['template']!['spec']!['containers']!.flatMap(
      ({ ports = [] as unknown as Node }) => [...ports],
    );
    for (const { targetPort } of spec!['ports'] ?? [])
      t.true(
        named.some(({ name }) => name === targetPort),
        targetPort,
      );
  }
});

test('the compose file names only what it defines: 3 NATS servers, 2 coordinators, 3 trainers', (t) => {
  const compose = yaml(read('compose.yaml'))[0]!;
  const services = Object.entries(compose['services']!) as [string, Node][];
  t.deepEqual(
    services.map(([name]) => name),
    ['nats-1', 'nats-2', 'nats-3', 'coordinator-1', 'coordinator-2', 'trainer-1', 'trainer-2', 'trainer-3'],
  );
  const docker = read('Dockerfile');
  const names = (section: string): readonly string[] => Object.keys(compose[section]!);
  for (const [name, service] of services) {
    for (const network of service['networks']!)
      t.true(names('networks').includes(network), `${name}: ${network}`);
    for (const kind of ['configs', 'secrets'] as const) {
      for (const { source } of service[kind] ?? [])
        t.true(names(kind).includes(source!), `${name}: ${source}`);
    }
    for (const volume of service['volumes'] ?? [])
      t.true(names('volumes').includes(volume.split(':')[0]!), volume);
    for (const other of Object.keys(service['depends_on'] ?? {}))
      t.true(services.some(([each]) => each === other));
    const target = service['build']?.['target'];
    if (target) t.regex(docker, new RegExp(`^FROM .* AS ${target}$`, 'm'));
  }
  const made = /\b(\S+\.pem|tokens\.json|trainer\.token)\b/g;
  const secrets = Object.values(compose['secrets']!).map(({ file }) =>
    (file as string).replace('./secrets/', ''),
  );
  t.deepEqual(
    secrets.filter((file) => !read('make-secrets.sh').match(made)!.includes(file)),
    [],
  );
  for (const { file } of Object.values(compose['configs']!)) t.true(existsSync(join(DEPLOY, file!)), file);
  for (const [, sources] of docker.matchAll(/^COPY (?!--from)(.*) \S+$/gm)) {
    for (const source of sources!.split(' ')) t.true(existsSync(join(ROOT, source)), source);
  }
});

test('a coordinator begins its run once, and then goes on with it or stands by', async (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, 'galore'), '#!/bin/sh\necho "$@"\n', { mode: 0o755 });
  const start = async (env: Record<string, string>): Promise<string> => {
    const PATH = `${folder}${delimiter}${process.env['PATH']}`;
    const environment = { PATH, GALORE_DIR: join(folder, 'run'), ...env };
    const { stdout } = await run(join(DEPLOY, 'galore-coordinator'), ['--log-json'], { env: environment });
    return stdout.trim().replaceAll(folder, '');
  };
  const GALORE_STATE = 'nats://a:4222';
  t.is(await start({}), 'coordinator /etc/galore/run.yaml --dir /run --log-json');
  const standsBy =
    'coordinator /etc/galore/run.yaml --dir /run --set state=nats://a:4222 --standby --log-json';
  t.is(await start({ GALORE_STATE }), standsBy);
  mkdirSync(join(folder, 'run'));
  writeFileSync(join(folder, 'run', 'run.yaml'), '');
  t.is(await start({}), 'resume /run --trainers 0 --log-json');
  t.is(await start({ GALORE_STATE }), standsBy);
});

test('make-secrets.sh makes a certificate for every name that trainers use, and a token, once', async (t) => {
  const folder = temporaryFolder(t);
  cpSync(join(DEPLOY, 'make-secrets.sh'), join(folder, 'make-secrets.sh'));
  const env = { ...process.env, GALORE: `${process.execPath} ${join(ROOT, 'bin/galore.js')}` };
  const make = (): Promise<unknown> => run(join(folder, 'make-secrets.sh'), ['train.example.org'], { env });
  await make();
  const secrets = join(folder, 'secrets');
  const { cert } = await readPemFiles({ cert: join(secrets, 'cert.pem'), key: join(secrets, 'key.pem') });
  const certificate = new X509Certificate(cert!);
  t.true(certificate.verify(new X509Certificate(readFileSync(join(secrets, 'ca.pem'))).publicKey));
  const texts = ['compose.yaml', 'kubernetes/trainer.yaml', 'kubernetes/gpu-patch.yaml'].map(read).join('\n');
  const hosts = new Set([...texts.matchAll(/wss:\/\/([^:/]+):/g)].map(([, host]) => host!));
  t.is(hosts.size, 4);
  for (const host of [...hosts, 'localhost', 'train.example.org']) t.is(certificate.checkHost(host), host);
  t.regex(readFileSync(join(secrets, 'trainer.token'), 'utf8'), /^galore_/);
  await t.throwsAsync(make(), undefined, 'a second time it changes nothing');
});

test('systemd and NATS take their files, where they are installed', async (t) => {
  const nats = await run('nats-server', ['-t', '-c', join(DEPLOY, 'nats.conf')]).catch(
    (error: NodeJS.ErrnoException & { stderr: string }) => error,
  );
  if ((nats as NodeJS.ErrnoException).code === 'ENOENT') t.log('nats-server is not installed');
  else t.regex(nats.stderr, /is valid/);
  // With programs that are there in place of those that will be.
  const folder = temporaryFolder(t);
  const units = readdirSync(join(DEPLOY, 'systemd')).map((name) => {
    const unit = join(folder, name.replace('@.', '@a.'));
    writeFileSync(unit, read(`systemd/${name}`).replace(/\/usr\/local\/bin\/galore[a-z-]*/, '/bin/sh'));
    return unit;
  });
  const verified = await run('systemd-analyze', ['verify', '--man=no', ...units]).catch(
    (error: NodeJS.ErrnoException & { stderr: string }) => error,
  );
  if ((verified as NodeJS.ErrnoException).code === 'ENOENT') t.log('systemd-analyze is not installed');
  else {
    const complaints = verified.stderr.split('\n').filter((line) => /galore/.test(line));
    t.deepEqual(complaints, []);
  }
});

test('the proxy passes WebSockets on', (t) => {
  const proxy = read('proxy/nginx.conf');
  for (const line of [
    'proxy_http_version 1.1',
    'Upgrade $http_upgrade',
    'Connection $connection_upgrade',
    'http_503',
  ]) {
    t.true(proxy.includes(line), line);
  }
});

test('the table of sizes is what galore plan says', async (t) => {
  const cells = (row: string): readonly string[] => row.split('|').map((cell) => cell.trim());
  const rows = read('README.md').split('\n').map(cells);
  const wanted = cells(await rowOf('60m', 'wan'));
  t.deepEqual(
    rows.find(([, name]) => name === wanted[1]),
    wanted,
  );
});
