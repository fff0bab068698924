/** How AVA runs the compiled tests: a process for each file, the longest files first. */

const LONGEST = ['e2e/', 'vectors/training-curve'];

/** 0 for files of whole runs, which would otherwise be what everything waits for at the end. */
function rankOf(path) {
  return LONGEST.some((part) => path.includes(`test/${part}`)) ? 0 : 1;
}

// oxlint-disable-next-line import/no-default-export -- AVA reads it
export default {
  files: ['dist/test/**/*.test.js'],
  workerThreads: false,
  timeout: '2m',
  sortTestFiles: (a, b) => rankOf(a) - rankOf(b) || (a < b ? -1 : 1),
};
