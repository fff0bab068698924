import test from 'ava';
import { missingNeeds } from '../../../src/cli/wan/needs.ts';

const ALL = { platform: 'linux', userId: 0, programs: ['ip', 'tc'] };
const NEEDS = 'shaped links need Linux, root and the programs ip and tc';

test('Linux, root, ip and tc are enough', (t) => {
  t.is(missingNeeds(ALL), null);
});

test('everything that is missing is named at once, and what to install', (t) => {
  t.is(missingNeeds({ ...ALL, platform: 'darwin', userId: 501, programs: [] }), `${NEEDS}; this is darwin`);
  t.is(missingNeeds({ ...ALL, userId: 1000 }), `${NEEDS}; this is user 1000: run it with sudo`);
  t.is(
    missingNeeds({ ...ALL, userId: 1000, programs: ['ip'] }),
    `${NEEDS}; this is user 1000: run it with sudo; tc is not in PATH: install iproute2 ` +
      '(apt-get install iproute2; on Fedora: dnf install iproute iproute-tc)',
  );
  t.regex(missingNeeds({ ...ALL, programs: [] })!, /; ip and tc are not in PATH: install iproute2/);
});
