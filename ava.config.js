/** How AVA runs the compiled tests: a process for each file, the longest files first. */

/** By the time they take: whatever began last would be what everything waits for at the end. */
const LONGEST = [
  'e2e/resume',
  'vectors/training-curve',
  'coordinator/store-faults',
  'e2e/bad-input',
  'e2e/power',
  'e2e/equality',
  'e2e/blocked-main-thread',
  'e2e/memory',
  'e2e/',
  'trainer/',
  'coordinator/',
];

/** The place of a file among the longest; after all of them those that are not. */
function rankOf(path) {
  const rank = LONGEST.findIndex((part) => path.includes(`test/${part}`));
  return rank < 0 ? LONGEST.length : rank;
}

// oxlint-disable-next-line import/no-default-export -- AVA reads it
export default {
  files: ['dist/test/**/*.test.js'],
  workerThreads: false,
  timeout: '2m',
  sortTestFiles: (a, b) => rankOf(a) - rankOf(b) || (a < b ? -1 : 1),
};
