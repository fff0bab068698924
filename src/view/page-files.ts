/** The files of the page: those under dashboard/ as compiled, and uPlot. Read once, kept; nothing else is served. SHELL. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface PageFile {
  readonly type: string;
  readonly bytes: Uint8Array;
}

/** dist/dashboard, beside dist/src. */
const PAGE_FOLDER = fileURLToPath(new URL('../../dashboard/', import.meta.url));
const UPLOT_FOLDER = dirname(createRequire(import.meta.url).resolve('uplot'));

const HTML = 'text/html; charset=utf-8';
const CSS = 'text/css; charset=utf-8';
const SCRIPT = 'text/javascript; charset=utf-8';

/** By the path of the request. */
const FILES: Readonly<Record<string, readonly [type: string, path: string]>> = {
  '/': [HTML, join(PAGE_FOLDER, 'index.html')],
  '/login': [HTML, join(PAGE_FOLDER, 'login.html')],
  '/page.css': [CSS, join(PAGE_FOLDER, 'page.css')],
  '/icon.svg': ['image/svg+xml', join(PAGE_FOLDER, 'icon.svg')],
  ...Object.fromEntries(
    ['main', 'chart', 'show', 'words'].map((name) => [
      `/${name}.js`,
      [SCRIPT, join(PAGE_FOLDER, `${name}.js`)],
    ]),
  ),
  '/uPlot.esm.js': [SCRIPT, join(UPLOT_FOLDER, 'uPlot.esm.js')],
  '/uPlot.min.css': [CSS, join(UPLOT_FOLDER, 'uPlot.min.css')],
};

/** They hold nothing of the run, and the page for the login needs them. */
export const OPEN_FILES: ReadonlySet<string> = new Set(['/login', '/page.css', '/icon.svg']);

const read = new Map<string, PageFile>();

/** The file behind a path, or null. */
export function pageFile(path: string): PageFile | null {
  const known = read.get(path);
  if (known !== undefined) return known;
  if (!Object.hasOwn(FILES, path)) return null;
  const [type, file] = FILES[path]!;
  const found = { type, bytes: readFileSync(file) };
  read.set(path, found);
  return found;
}
