// The real Graphile Worker: makes its schema, or works as an old server does, one runner for each task.
//
//   node graphile.mjs PACKAGES migrate URL
//   node graphile.mjs PACKAGES work URL TASK...       prints what it runs; a job with data.hang is never done
import { createRequire } from "node:module";

const [packages, command, connectionString, ...tasks] = process.argv.slice(2);
const { run, runMigrations } = createRequire(`${packages}/package.json`)("graphile-worker");

if (command === "migrate") {
  await runMigrations({ connectionString });
} else {
  const runners = await Promise.all(
    tasks.map((task) =>
      run({
        connectionString,
        concurrency: 1,
        pollInterval: 200,
        noHandleSignals: true,
        taskList: {
          [task]: async (payload, { job }) => {
            console.log(`running ${job.id} attempt ${job.attempts}`);
            if (payload.data?.hang) await new Promise(() => {});
          },
        },
      }),
    ),
  );
  console.log("working");
  await Promise.all(runners.map((runner) => runner.promise));
}
