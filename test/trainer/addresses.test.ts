import test from 'ava';
import { addressesOf, findAddresses, indexOfUrl, splitUrls } from '../../src/trainer/addresses.ts';

const v4 = (...addresses: string[]) => addresses.map((address) => ({ address, family: 4 }));
const v6 = (...addresses: string[]) => addresses.map((address) => ({ address, family: 6 }));

test('a list of addresses has commas, and spaces where people write them', (t) => {
  t.deepEqual(splitUrls('ws://a:1,ws://b:2'), ['ws://a:1', 'ws://b:2']);
  t.deepEqual(splitUrls('wss://a, wss://b'), ['wss://a', 'wss://b']);
});

test('of a name with several addresses each is tried, in one order for all', async (t) => {
  const found = await findAddresses(['wss://pair.example:29400/', 'ws://10.0.0.9:29400/'], async () =>
    v4('10.0.0.8', '10.0.0.7'),
  );
  t.deepEqual(
    found.map(({ url, host }) => [url, host]),
    [
      ['wss://pair.example:29400/', '10.0.0.7'],
      ['wss://pair.example:29400/', '10.0.0.8'],
      ['ws://10.0.0.9:29400/', '10.0.0.9'],
    ],
  );
  const answers: unknown[] = [];
  found[1]!.lookup!('pair.example', { all: true }, (_error, addresses) => answers.push(addresses));
  found[1]!.lookup!('pair.example', {}, (_error, address, family) => answers.push([address, family]));
  t.deepEqual(answers, [[{ address: '10.0.0.8', family: 4 }], ['10.0.0.8', 4]]);
});

test('a machine with an address of each family is one, and a name that DNS does not know stays as it is', async (t) => {
  const dual = await findAddresses(['ws://one.example'], async () => [...v6('fd00::1'), ...v4('10.0.0.7')]);
  t.deepEqual(dual, [{ url: 'ws://one.example', host: 'one.example' }]);
  const six = await findAddresses(['ws://six.example'], async () => v6('fd00::2', 'fd00::1'));
  t.deepEqual(
    six.map(({ host }) => host),
    ['fd00::1', 'fd00::2'],
  );
  const unknown = await findAddresses(['ws://gone.example'], () => Promise.reject(new Error('ENOTFOUND')));
  t.deepEqual(unknown, [{ url: 'ws://gone.example', host: 'gone.example' }]);
});

test('the URL that a standby names is found by host and port, default ports too, and no other is', (t) => {
  const list = addressesOf(['ws://a:29400', 'wss://b', 'ws://[fd00::1]:29400/']);
  t.is(indexOfUrl(list, 'ws://a:29400/'), 0);
  t.is(indexOfUrl(list, 'wss://b:443/'), 1);
  t.is(indexOfUrl(list, 'ws://[fd00::1]:29400'), 2);
  t.is(indexOfUrl(list, 'ws://a:29401/'), null);
  t.is(indexOfUrl(list, 'none'), null);
});
