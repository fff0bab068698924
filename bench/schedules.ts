/**
 * `npm run schedules -- --count 2000 --seed 1`: plays simulated runs in which everything goes wrong that can, and
 * prints how often each fault came about. Ends with 1 and the seed at the first run in which a rule is broken.
 */
import { parseArgs } from 'node:util';
import { FAULT_TYPES } from '../src/simulation/faults.ts';
import { playSchedules, type BrokenSchedule } from '../src/simulation/schedules.ts';

const { values } = parseArgs({
  options: { count: { type: 'string', default: '2000' }, seed: { type: 'string', default: '1' } },
});

function whole(name: 'count' | 'seed', least: number): number {
  const number = Number(values[name]);
  if (Number.isSafeInteger(number) && number >= least) return number;
  console.error(`--${name} is ${values[name]}; allowed: a whole number from ${least}`);
  process.exit(2);
}

function tell({ schedule, violations }: BrokenSchedule): void {
  const { seed, trainerIds, plan, faults = [] } = schedule;
  console.log(`seed ${seed} breaks a rule (again: npm run schedules -- --count 1 --seed ${seed})`);
  console.log(`trainers: ${trainerIds.join(' ')}; plan: ${JSON.stringify(plan)}`);
  for (const fault of faults) console.log(`fault: ${JSON.stringify(fault)}`);
  for (const violation of violations) console.log(`broken: ${violation}`);
}

const [count, seed] = [whole('count', 1), whole('seed', 0)];
const startedMs = performance.now();
const totals = playSchedules(seed, count);
const seconds = (performance.now() - startedMs) / 1000;

console.log('fault             fired');
for (const type of FAULT_TYPES)
  console.log(`${type.padEnd(16)} ${String(totals.fired.get(type) ?? 0).padStart(6)}`);
const { committedSteps, coordinatorStarts } = totals;
console.log(
  `${totals.count} schedules from seed ${seed}, ${committedSteps} committed steps, ` +
    `${coordinatorStarts} starts of the coordinator, ${seconds.toFixed(1)} s`,
);
if (totals.unseen > 0) {
  console.log(
    `${totals.unseen} were left off: a trainer went wrong that was alone, so that nobody could see it`,
  );
}
if (totals.broken === null) console.log('every rule holds');
else {
  tell(totals.broken);
  process.exitCode = 1;
}
