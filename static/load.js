// What happened between two answers of /stats, over all workers.

const sum = (values) => values.reduce((total, value) => total + value, 0);
const greatest = (values) => values.reduce((most, value) => (value === null ? most : Math.max(most ?? 0, value)), null);

export class Load {
  #before = new Map(); // figures of each process by its id

  /**
   * Points for the charts; null where there is nothing to tell, such as at first.
   * @param {{workers: object[], front?: object}} stats
   */
  take({ workers, front }) {
    const first = this.#before.size === 0;
    const processes = front ? [...workers, front] : workers;
    // A process that was not there before, or was an older one, has begun meanwhile: all that it has is new.
    const more = (it, read) => {
      const before = this.#before.get(it.pid);
      return read(it) - (before?.age_s < it.age_s ? read(before) : 0);
    };
    const since = (list, read) => (first ? null : sum(list.map((it) => more(it, read))));
    const batches = since(workers, (it) => sum(Object.values(it.batches)));
    const enhanced = since(workers, (it) => sum(Object.entries(it.batches).map(([size, count]) => size * count)));
    // By the clock of each process: the network may hold one answer up, and not the next.
    const cpu = sum(processes.map((it) => more(it, ({ cpu_s }) => cpu_s) / more(it, ({ age_s }) => age_s)));
    const points = {
      calls: [sum(workers.map((it) => it.calls)), sum(workers.map((it) => it.listeners)), sum(workers.map((it) => it.rated_calls))],
      cpu: [first ? null : cpu],
      step: [greatest(workers.map((it) => it.step_ms.p50)), greatest(workers.map((it) => it.step_ms.p99))],
      batch: [batches ? enhanced / batches : null],
      delay: this.#delay(workers, since),
      trouble: [sum(workers.map((it) => it.shed + it.failed)), since(workers, (it) => it.sheds), since(workers, (it) => it.refused)],
    };
    for (const it of processes) this.#before.set(it.pid, it); // one that does not answer once is no new one later
    return points;
  }

  /** Mean, and the bound that 99 % of the packets kept, in ms. */
  #delay(workers, since) {
    const bounds = workers[0]?.delay_s.bounds ?? [];
    const counts = [...bounds, Infinity].map((_, n) => since(workers, (it) => it.delay_s.counts[n]));
    const packets = sum(counts);
    if (!packets) return [null, null];
    let [reached, n] = [0, 0];
    while ((reached += counts[n]) < 0.99 * packets) n++;
    return [(1000 * since(workers, (it) => it.delay_s.sum)) / packets, 1000 * bounds[Math.min(n, bounds.length - 1)]];
  }
}
