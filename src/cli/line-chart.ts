/** Line charts as SVG text: a few labelled curves over one axis, readable on light and dark pages. */

export interface Line {
  readonly name: string;
  /** [x, y], ascending in x. */
  readonly points: readonly (readonly [number, number])[];
}

export interface Axis {
  readonly label: string;
  readonly isLogarithmic?: boolean;
}

export interface Chart {
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly lines: readonly Line[];
}

const WIDTH = 860;
const HEIGHT = 440;
const MARGIN = { left: 64, right: 230, top: 44, bottom: 52 };
/** Okabe and Ito's palette, told apart with every kind of colour vision. */
const COLORS = [
  '#0072b2',
  '#e69f00',
  '#009e73',
  '#d55e00',
  '#cc79a7',
  '#56b4e9',
  '#8c6d1f',
  '#666666',
  '#a0003c',
];

/** The chart; lines without points are left out of the drawing but not of the legend. */
export function lineChart({ title, x, y, lines }: Chart): string {
  const points = lines.flatMap((line) => line.points);
  const across = scaleOf(
    points.map(([value]) => value),
    x,
    MARGIN.left,
    WIDTH - MARGIN.right,
  );
  const up = scaleOf(
    points.map(([, value]) => value),
    y,
    HEIGHT - MARGIN.bottom,
    MARGIN.top,
  );
  const drawn = lines.map((line, i) => {
    const color = COLORS[i % COLORS.length]!;
    const path = line.points.map(([a, b]) => `${across.at(a).toFixed(1)},${up.at(b).toFixed(1)}`).join(' ');
    const legendY = MARGIN.top + 8 + 20 * i;
    const legendX = WIDTH - MARGIN.right + 16;
    return (
      `<polyline points="${path}" fill="none" stroke="${color}" stroke-width="2"/>\n` +
      `<line x1="${legendX}" x2="${legendX + 18}" y1="${legendY}" y2="${legendY}" stroke="${color}" stroke-width="3"/>\n` +
      text(line.name, legendX + 24, legendY + 4, 'start')
    );
  });
  const xTicks = across.ticks.map((value) => {
    const at = across.at(value).toFixed(1);
    return (
      `<line x1="${at}" x2="${at}" y1="${MARGIN.top}" y2="${HEIGHT - MARGIN.bottom}" class="grid"/>\n` +
      text(tickText(value), Number(at), HEIGHT - MARGIN.bottom + 18, 'middle')
    );
  });
  const yTicks = up.ticks.map((value) => {
    const at = up.at(value).toFixed(1);
    return (
      `<line x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${at}" y2="${at}" class="grid"/>\n` +
      text(tickText(value), MARGIN.left - 8, Number(at) + 4, 'end')
    );
  });
  const middle = (MARGIN.left + WIDTH - MARGIN.right) / 2;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`,
    '<style>.grid{stroke:#8884;stroke-width:1}text{fill:#444}@media(prefers-color-scheme:dark){text{fill:#ccc}}</style>',
    ...xTicks,
    ...yTicks,
    ...drawn,
    text(title, MARGIN.left, 24, 'start', 15),
    text(x.label, middle, HEIGHT - 12, 'middle'),
    text(y.label, MARGIN.left, MARGIN.top - 6, 'start'),
    '</svg>',
    '',
  ].join('\n');
}

interface Scale {
  readonly ticks: readonly number[];
  at(value: number): number;
}

function scaleOf(
  values: readonly number[],
  { isLogarithmic = false }: Axis,
  from: number,
  to: number,
): Scale {
  const map = isLogarithmic ? Math.log10 : (value: number): number => value;
  const usable = values.filter((value) => Number.isFinite(map(value)));
  const [low, high] =
    usable.length === 0 ? [0, 1] : [Math.min(...usable.map(map)), Math.max(...usable.map(map))];
  const span = high - low || 1;
  const at = (value: number): number => from + ((map(value) - low) / span) * (to - from);
  const ticks = isLogarithmic ? powersOfTen(low, high) : evenTicks(low, high);
  return { at, ticks };
}

function powersOfTen(low: number, high: number): number[] {
  const ticks: number[] = [];
  for (let power = Math.ceil(low); power <= high; power += 1) ticks.push(10 ** power);
  return ticks;
}

/** About six round numbers. */
function evenTicks(low: number, high: number): number[] {
  const rough = (high - low || 1) / 6;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((candidate) => candidate >= rough)!;
  const ticks: number[] = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) ticks.push(value);
  return ticks;
}

function tickText(value: number): string {
  return String(Number(value.toPrecision(3)));
}

function text(content: string, x: number, y: number, anchor: string, size = 12): string {
  const escaped = content.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<text x="${x}" y="${y}" text-anchor="${anchor}" font-size="${size}">${escaped}</text>`;
}
