// What happened between two answers of /stats, over all workers.

const sum = (values) => values.reduce((total, value) => total + value, 0);
const greatest = (values) => values.reduce((most, value) => (value === null ? most : Math.max(most ?? 0, value)), null);

export class Load {
  #before = new Map(); // figures of each process by its id
  #time = null; // ms

  /**
   * Points for the charts; null where there is nothing to tell, such as at first.
   * @param {{workers: object[], front?: object}} stats
   * @param {number} now ms
   */
  take({ workers, front }, now) {
    const seconds = this.#time === null ? null : (now - this.#time) / 1000;
    const processes = front ? [...workers, front] : workers;
    // A process that was not there before has begun meanwhile: all that it has is new.
    const more = (list, read) => sum(list.map((it) => read(it) - (this.#before.has(it.pid) ? read(this.#before.get(it.pid)) : 0)));
    const since = (list, read) => (seconds === null ? null : more(list, read));
    const batches = since(workers, (it) => sum(Object.values(it.batches)));
    const enhanced = since(workers, (it) => sum(Object.entries(it.batches).map(([size, count]) => size * count)));
    const cpu = since(processes, (it) => it.cpu_s);
    const points = {
      calls: [sum(workers.map((it) => it.calls)), sum(workers.map((it) => it.listeners)), sum(workers.map((it) => it.rated_calls))],
      cpu: [cpu === null ? null : cpu / seconds],
      step: [greatest(workers.map((it) => it.step_ms.p50)), greatest(workers.map((it) => it.step_ms.p99))],
      batch: [batches ? enhanced / batches : null],
      delay: this.#delay(workers, since),
      trouble: [sum(workers.map((it) => it.shed + it.failed)), since(workers, (it) => it.sheds), since(workers, (it) => it.refused)],
    };
    for (const it of processes) this.#before.set(it.pid, it); // one that does not answer once is no new one later
    this.#time = now;
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
