// What can go wrong with the storage of an object, on command and in the object's own code path: a number of calls
// fail, then all is well again.

const FULL = "database or disk is full: SQLITE_FULL";

/** Makes the next calls of a kind fail. Throws if there is no such fault. */
export function breakStorage(storage: DurableObjectStorage, fault: string, times: number): void {
  const { sql, kv } = storage;
  const exec = sql.exec.bind(sql);
  /** Whether this call still fails; the last one that does takes the fault back. */
  const fails = (takeBack: () => void): boolean => {
    times -= 1;
    if (times <= 0) takeBack();
    return times >= 0;
  };
  const insteadOfRows = (fail: (query: string, key: unknown, value: unknown) => void): void => {
    sql.exec = (query, ...values) => {
      if (query.startsWith("INSERT") && fails(() => (sql.exec = exec))) fail(query, values[0], values[1]);
      return exec(query, ...values);
    };
  };
  switch (fault) {
    // The disk is full, and told so in the middle of a batch: the row itself has been written.
    case "full":
      insteadOfRows((query, key, value) => {
        exec(query, key, value);
        throw new Error(FULL);
      });
      return;
    // A row is larger than the runtime takes.
    case "large":
      insteadOfRows((query, key) => void exec(query, key, new Uint8Array(3 * 1024 * 1024)));
      return;
    // What the object itself wants to remember is not taken.
    case "mute": {
      const put = kv.put.bind(kv);
      kv.put = (key, value) => {
        if (fails(() => (kv.put = put))) throw new Error(FULL);
        put(key, value);
      };
      return;
    }
    // The batch is taken, but its commit fails: a constraint is broken that SQLite checks only then.
    case "commit": {
      const transact = storage.transactionSync.bind(storage);
      storage.transactionSync = (batch) => {
        const done = transact(batch);
        if (fails(() => (storage.transactionSync = transact))) {
          exec("CREATE TABLE IF NOT EXISTS parents (id INTEGER PRIMARY KEY)");
          exec("CREATE TABLE IF NOT EXISTS children (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)");
          exec("INSERT INTO children VALUES (1)");
        }
        return done;
      };
      return;
    }
    // No alarm is taken.
    case "alarm": {
      const setAlarm = storage.setAlarm.bind(storage);
      storage.setAlarm = async (at) => {
        if (fails(() => (storage.setAlarm = setAlarm))) throw new Error("the alarm was not taken");
        await setAlarm(at);
      };
      return;
    }
    // Every commit takes longer to be durable.
    case "slow": {
      const sync = storage.sync.bind(storage);
      storage.sync = async () => {
        await scheduler.wait(300);
        await sync();
      };
      return;
    }
    default:
      throw new Error(`no fault ${fault}`);
  }
}
