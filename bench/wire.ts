/**
 * Throughput of contributions from Links (their network threads) to a CoordinatorServer on loopback:
 * `node dist/bench/wire.js [trainers] [MB] [repeats]`. The coordinator puts parts together and checks the checksum.
 */
import { CoordinatorServer } from '../src/coordinator/server.ts';
import { SILENT_LOGGER } from '../src/log.ts';
import { crc32c } from '../src/protocol/crc32c.ts';
import { PartAssembler } from '../src/protocol/parts.ts';
import { refreshPlan } from '../src/galore/projection/sketch.ts';
import { buildSlots } from '../src/galore/slot.ts';
import { payloadSize, sameCodec, slotSizes } from '../src/protocol/slot-sizes.ts';
import { PROTOCOL_VERSIONS } from '../src/protocol/version.ts';
import { Link } from '../src/trainer/link.ts';

const [trainers = 1, megabytes = 40, repeats = 10] = process.argv.slice(2).map(Number);
const TENSORS = 20;
const tensorBytes = Math.round((megabytes * 1e6) / TENSORS / 4) * 4;
const slots = buildSlots(
  Array.from({ length: TENSORS }, (_, index) => ({ name: `tensor ${index}`, shape: [tensorBytes / 4] })),
  { policy: null, rank: 1, projType: 'std', targetModules: [], rule: 'adamw', plainRule: 'adamw' },
);
const refresh = refreshPlan({ type: 'exact', oversample: 0, power_iterations: 0 });
const sizes = slotSizes(slots, { codecs: sameCodec(slots, 'f32'), refresh, ranks: null });

let received = 0;
let onAll: () => void = () => {};
const states = new Map<number, { assembler: PartAssembler; checksum: number }>();
const server = await CoordinatorServer.listen(
  {
    host: '127.0.0.1',
    port: 0,
    handshakeTimeoutMs: 5000,
    heartbeatIntervalMs: 5000,
    heartbeatTimeoutMs: 30_000,
    logger: SILENT_LOGGER,
  },
  {
    onMessage(connection, message) {
      if (message.kind === 'hello') {
        server.admit(connection, message.trainerId);
        states.set(connection.id, {
          assembler: new PartAssembler(({ tensor }) => payloadSize(sizes[tensor]!, 'contribution', 1)),
          checksum: 0,
        });
        connection.send({
          kind: 'welcome',
          protocolVersion: PROTOCOL_VERSIONS[0]!,
          runId: 'r',
          runName: 'r',
          configJson: '{}',
          modelJson: '{}',
          schemaHash: new Uint8Array(32),
          heartbeatIntervalMs: 5000,
          heartbeatTimeoutMs: 30_000,
          snapshot: null,
        });
        return;
      }
      const state = states.get(connection.id)!;
      if (message.kind === 'part') {
        state.assembler.accept(message);
        state.checksum = crc32c(message.payload, state.checksum);
      } else if (message.kind === 'contribution') {
        if (message.checksum !== state.checksum) throw new Error('the checksum is wrong');
        state.checksum = 0;
        if (++received % trainers === 0) onAll();
      }
    },
    onClose() {},
    onFatal(error) {
      throw error;
    },
  },
);

const links: Link[] = [];
for (let index = 0; index < trainers; index++) {
  const link = Link.open({ url: server.url, trainerId: `t${index}`, logger: SILENT_LOGGER });
  for await (const event of link.events()) if (event.type === 'connected') break;
  link.accept(sizes);
  links.push(link);
}

const seconds: number[] = [];
const cpuBefore = process.cpuUsage();
for (let repeat = 0; repeat < repeats; repeat++) {
  const tensors = links.map(() =>
    Array.from({ length: TENSORS }, () => new Uint8Array(tensorBytes).fill(repeat)),
  );
  const startedMs = performance.now();
  const all = new Promise<void>((resolve) => (onAll = resolve));
  links.forEach((link, index) => {
    tensors[index]!.forEach((bytes, tensor) =>
      link.sendTensor({ stream: 'contribution', step: repeat + 1, round: 0, tensor, codec: 'f32' }, bytes),
    );
    link.send({ kind: 'contribution', step: repeat + 1, tokens: 1, lossSum: 1 });
  });
  await all;
  seconds.push((performance.now() - startedMs) / 1000);
}
const cpu = process.cpuUsage(cpuBefore); // all threads, both ends
const median = seconds.toSorted((a, b) => a - b)[Math.floor(seconds.length / 2)]!;
const total = trainers * TENSORS * tensorBytes;
console.log(
  JSON.stringify({
    trainers,
    megabytes,
    medianSeconds: Number(median.toFixed(4)),
    megabytesPerSecond: Math.round(total / 1e6 / median),
    overheadShare: Number((server.bytesReceived / (total * repeats) - 1).toFixed(5)),
    cpuSecondsPerGigabyte: Number(((cpu.user + cpu.system) / 1e6 / ((total * repeats) / 1e9)).toFixed(2)),
    rssMegabytes: Math.round(process.memoryUsage.rss() / 1e6),
  }),
);
await Promise.all(links.map((link) => link.close()));
await server.close();
