/**
 * Which of several addresses a trainer tries next, and when it has been round all of them. Pure: what the addresses
 * are, and which name has which, is addresses.ts' business; here they are numbers from 0.
 *
 * A round tries each address once, without a wait between them; then there is one. Where a standby knows who leads
 * the run that address comes next. A machine that is gone, or stands still, says nothing at all: such an address is
 * given up sooner than the only one would be, and left alone for a while as long as a standby answers.
 */

/** How long an address that has said nothing is left alone, as long as a standby answers. */
export const REST_MS = 10_000;
/** How long one of several addresses may take to open a socket; twice as long each time in a row that it does not. */
export const OPENING_MS = 3_000;

export interface Route {
  /** How many addresses there are. */
  readonly count: number;
  /** The current one, or the next one where no socket is open. */
  readonly address: number;
  /** Those that have failed in this round. */
  readonly tried: readonly number[];
  /** A standby has answered in this round: the run is there, and somebody will soon lead it. */
  readonly hasStandby: boolean;
  /** Answers in a row that trying again would not change, whichever address gave them. */
  readonly refusals: number;
  /** Addresses that said nothing when they were last tried. */
  readonly silences: readonly Silence[];
}

interface Silence {
  readonly address: number;
  /** In a row. */
  readonly times: number;
  readonly restsUntilMs: number;
}

/** What a standby answers. */
export interface StandbyAnswer {
  /** Of whom it takes for the leader; null: it knows of none, or of one that has no address here. */
  readonly leader: number | null;
}

/** How the current address has failed. */
export interface RouteFailure {
  readonly nowMs: number;
  /** What a standby answered; null: none did. */
  readonly standby: StandbyAnswer | null;
  /** An answer that trying again would not change. */
  readonly isRefusal: boolean;
  /** It did not answer at all, or no longer. */
  readonly isSilent: boolean;
}

export function startRoute(count: number): Route {
  return { count, address: 0, tried: [], hasStandby: false, refusals: 0, silences: [] };
}

/** The current address was good: a failure from here on is the first one of a round. */
export function routeThatHolds(route: Route): Route {
  return { ...route, tried: [], hasStandby: false, refusals: 0, silences: [] };
}

/** How long the socket of the current address may take to open, in ms; `mostMs`: where there is no other. */
export function openingMs({ count, address, silences }: Route, mostMs: number): number {
  if (count === 1) return mostMs;
  return Math.min(mostMs, OPENING_MS * 2 ** timesSilent(silences, address));
}

/** Where names have got other addresses. */
export function routeOf(route: Route, count: number): Route {
  const tried = route.tried.filter((address) => address < count);
  const silences = route.silences.filter(({ address }) => address < count);
  return { ...route, count, tried, silences, address: route.address % count };
}

/** The current address has failed. `isRoundOver`: all have, and the next try needs a wait. */
export function nextRoute(
  route: Route,
  { nowMs, standby, isRefusal, isSilent }: RouteFailure,
): { readonly route: Route; readonly isRoundOver: boolean } {
  const { count, address } = route;
  const tried = [...route.tried, address];
  const following = Array.from({ length: count }, (_, i) => (address + 1 + i) % count);
  const leader = standby?.leader ?? null;
  const hasStandby = route.hasStandby || standby !== null;
  const refusals = isRefusal ? route.refusals + 1 : 0;
  const others = route.silences.filter((each) => each.address !== address);
  const times = timesSilent(route.silences, address) + 1;
  const silences = isSilent ? [...others, { address, times, restsUntilMs: nowMs + REST_MS }] : others;
  const after = { count, hasStandby, refusals, silences };
  const next = (leader === null ? following : [leader, ...following]).find((each) => !tried.includes(each));
  if (next !== undefined) return { route: { ...after, address: next, tried }, isRoundOver: false };
  const resting = silences
    .filter((each) => hasStandby && each.restsUntilMs > nowMs)
    .map((each) => each.address);
  // By then the standby may know better than the leader it has named.
  const first = following.find((each) => !resting.includes(each)) ?? following[0]!;
  return { route: { ...after, address: first, tried: resting }, isRoundOver: true };
}

function timesSilent(silences: readonly Silence[], address: number): number {
  return silences.find((each) => each.address === address)?.times ?? 0;
}
