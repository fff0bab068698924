import test from 'ava';
import { mkdirSync } from 'node:fs';
import { EngineError } from '../../../src/errors.ts';
import { isDeviceWish } from '../../../src/device-name.ts';
import { chooseDevices, isAtLeast, type Machine } from '../../../src/trainer/engine/choose-device.ts';
import { tensorCores } from '../../../src/trainer/engine/device.ts';
import { findGpus, parseGpus, type Gpu } from '../../../src/trainer/engine/gpus.ts';
import { readyDevices } from '../../../src/trainer/engine/ready-device.ts';
import { machine } from './machine.ts';

const TWO = [
  '0, GPU-aaaa1111-2222, NVIDIA GeForce RTX 3090, 24576, 8.6, 550.54.14',
  '1, GPU-bbbb1111-2222, NVIDIA H100 PCIe, 81559, 9.0, 550.54.14',
  '',
].join('\n');

const says = (output: string) => (): Promise<string> => Promise.resolve(output);

function gpus(count: number, changes: Partial<Gpu> = {}): readonly Gpu[] {
  return Array.from({ length: count }, (_, number) => ({
    number,
    uuid: `GPU-${number}`,
    name: `NVIDIA ${'ABC'[number]}`,
    memoryBytes: 8 * 2 ** 30,
    computeCapability: '8.6',
    driverVersion: '550.54.14',
    ...changes,
  }));
}

function withGpus(count: number, isGpuEngineInstalled = true, changes: Partial<Gpu> = {}): Machine {
  const obstacle = count === 0 ? 'nvidia-smi lists no GPU' : null;
  return { search: { gpus: gpus(count, changes), obstacle }, isGpuEngineInstalled };
}

test('a device is auto, cpu or gpu:N', (t) => {
  for (const text of ['auto', 'cpu', 'gpu:0', 'gpu:15']) t.true(isDeviceWish(text), text);
  for (const text of ['', 'gpu', 'gpu:', 'gpu:-1', 'gpu:01', 'gpu:1.5', 'cuda:0', 'CPU']) {
    t.false(isDeviceWish(text), text);
  }
});

test('the answer of nvidia-smi gives number, name, memory, capability and driver of each GPU', async (t) => {
  const { gpus: found, obstacle } = await findGpus(null, says(TWO));
  t.is(obstacle, null);
  t.deepEqual(found[1], {
    number: 1,
    uuid: 'GPU-bbbb1111-2222',
    name: 'NVIDIA H100 PCIe',
    memoryBytes: 81559 * 2 ** 20,
    computeCapability: '9.0',
    driverVersion: '550.54.14',
  });
  t.deepEqual(parseGpus('No devices were found\n'), []);
  t.is(parseGpus('0, GPU-1, NVIDIA GB10, [N/A], 12.1, 580.65')[0]?.memoryBytes, 0);
});

test('CUDA_VISIBLE_DEVICES says which GPUs are ours and in which order', async (t) => {
  const numbers = async (visible: string): Promise<unknown> =>
    (await findGpus(visible, says(TWO))).gpus.map(({ number, name }) => [number, name.split(' ')[1]]);
  t.deepEqual(await numbers('1'), [[0, 'H100']]);
  t.deepEqual(await numbers('1,0'), [
    [0, 'H100'],
    [1, 'GeForce'],
  ]);
  t.deepEqual(await numbers('GPU-bbbb'), [[0, 'H100']]);
  t.deepEqual(await numbers('0,7,1'), [[0, 'GeForce']], 'as CUDA does, nothing after an unknown one');
  t.deepEqual(await numbers(''), []);
  t.regex(
    (await findGpus('-1', says(TWO))).obstacle ?? '',
    /^CUDA_VISIBLE_DEVICES is "-1" and names none of the 2/,
  );
});

test('a machine without a driver, and a driver that fails, are told apart', async (t) => {
  const fails = (message: string) => (): Promise<string> => Promise.reject(new EngineError(message));
  const missing = await findGpus(null, fails('nvidia-smi could not be run: spawn nvidia-smi ENOENT'));
  t.deepEqual(missing, { gpus: [], obstacle: 'nvidia-smi, which comes with NVIDIA’s driver, is not here' });
  const broken = await findGpus(
    null,
    fails('nvidia-smi ended with exit code 9: Driver/library\nversion mismatch'),
  );
  t.is(broken.obstacle, 'nvidia-smi ended with exit code 9: Driver/library version mismatch');
});

test('auto takes the processor in silence where there is neither a GPU nor its engine', (t) => {
  t.deepEqual(chooseDevices('auto', 1, withGpus(0, false)), { devices: ['cpu'], notices: [] });
});

test('auto says why it takes the processor where a GPU was to be expected', (t) => {
  const { devices, notices } = chooseDevices('auto', 2, withGpus(0));
  t.deepEqual(devices, ['cpu', 'cpu']);
  t.deepEqual(notices, ['computing on the CPU: nvidia-smi lists no GPU']);
  t.deepEqual(chooseDevices('auto', 1, withGpus(1, false)).notices, [
    'computing on the CPU although there is a GPU (NVIDIA A): `galore engine install --gpu` installs what it needs',
  ]);
  t.deepEqual(chooseDevices('auto', 1, withGpus(1, true, { driverVersion: '470.82.01' })).notices, [
    'computing on the CPU: its driver is 470.82.01, and CUDA 12 needs 525.60.13 or newer',
  ]);
});

test('auto spreads trainers over the GPUs and says which of them share one', (t) => {
  t.deepEqual(chooseDevices('auto', 2, withGpus(2)), { devices: ['gpu:0', 'gpu:1'], notices: [] });
  t.deepEqual(chooseDevices('auto', 3, withGpus(2)), {
    devices: ['gpu:0', 'gpu:1', 'gpu:0'],
    notices: ['trainer-1, trainer-3 share gpu:0'],
  });
});

test('a GPU that is asked for is taken, or the error names what was asked for and what is there', (t) => {
  t.deepEqual(
    chooseDevices('gpu:1', 1, withGpus(2, false)).devices,
    ['gpu:1'],
    'its engine can be installed',
  );
  t.deepEqual(chooseDevices('gpu:0', 2, withGpus(1)).notices, ['trainer-1, trainer-2 share gpu:0']);
  t.deepEqual(chooseDevices('cpu', 2, withGpus(2)), { devices: ['cpu', 'cpu'], notices: [] });
  t.throws(() => chooseDevices('gpu:9', 1, withGpus(2)), {
    instanceOf: EngineError,
    message:
      'gpu:9 was asked for, and there is gpu:0 (NVIDIA A), gpu:1 (NVIDIA B); --device cpu computes on the processor',
  });
  t.throws(() => chooseDevices('gpu:0', 1, withGpus(0)), {
    message:
      'gpu:0 was asked for, and no GPU here: nvidia-smi lists no GPU; --device cpu computes on the processor',
  });
  t.throws(() => chooseDevices('gpu:0', 1, withGpus(1, true, { computeCapability: '5.2' })), {
    message:
      /^gpu:0 was asked for and cannot be used: NVIDIA A has compute capability 5\.2, .* 6\.0 or more$/,
  });
});

test('versions are compared as numbers, and an unknown one is no reason against a GPU', (t) => {
  t.true(isAtLeast('535.9', '525.60.13'));
  t.true(isAtLeast('525.60.13', '525.60.13'));
  t.false(isAtLeast('525.60', '525.60.13'));
  t.true(isAtLeast('10.0', '9.0'));
  t.true(isAtLeast('[N/A]', '525.60.13'));
});

test('bf16 on a GPU needs tensor cores for TF32', (t) => {
  t.is(tensorCores(gpus(1)[0] ?? null), 'TF32 tensor cores');
  t.is(tensorCores(gpus(1, { computeCapability: '7.5' })[0] ?? null), undefined);
});

test('each device comes with the build it needs, and no other build is installed', async (t) => {
  const m = machine(t);
  mkdirSync(m.cacheDir);
  const notices: string[] = [];
  const ready = (wish: 'auto' | 'cpu' | 'gpu:1', count: number) =>
    readyDevices({
      ...m.options,
      ...{ wish, count, visibleGpus: null },
      onNotice: (text) => void notices.push(text),
      findGpus: () => findGpus(null, says(TWO)),
    });
  const [cpu] = await ready('auto', 1);
  t.like(cpu, { name: 'cpu', gpu: null });
  t.regex(cpu?.folder ?? '', /engine\/cpu-/);
  t.regex(notices.join(), /^computing on the CPU although there is a GPU/);
  const [one] = await ready('gpu:1', 1);
  t.like(one, { name: 'gpu:1', gpu: { name: 'NVIDIA H100 PCIe', uuid: 'GPU-bbbb1111-2222' } });
  t.regex(one?.folder ?? '', /engine\/gpu-/);
  t.deepEqual(
    (await ready('auto', 2)).map(({ name }) => name),
    ['gpu:0', 'gpu:1'],
    'now that its engine is installed',
  );
  m.log.length = 0;
  await t.throwsAsync(
    readyDevices({
      ...m.options,
      ...{ wish: 'gpu:0', count: 1, visibleGpus: '', onNotice: () => {} },
      findGpus: (visible) => findGpus(visible, says(TWO)),
    }),
    { instanceOf: EngineError, message: /^gpu:0 was asked for, and no GPU here: CUDA_VISIBLE_DEVICES is ""/ },
  );
  t.deepEqual(m.log, [], 'nothing is installed for a GPU that is not there');
});
