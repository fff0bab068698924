/** The page loads uPlot from beside itself: browsers know no package names. */
import uPlot from 'uplot';
// oxlint-disable-next-line import/no-default-export -- uPlot's own
export default uPlot;
