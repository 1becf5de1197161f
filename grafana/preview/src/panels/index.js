import { BarGaugePanel } from './bargauge.jsx';
import { Stat } from './stat.jsx';
import { Table } from './table.jsx';
import { Text } from './text.jsx';
import { TimeSeries } from './timeseries.jsx';

/** What can be drawn, by a panel's `type`. */
export const PANELS = {
  bargauge: BarGaugePanel,
  stat: Stat,
  table: Table,
  text: Text,
  timeseries: TimeSeries,
};
