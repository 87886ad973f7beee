// Node reads a stream of events.
require("http").get(process.argv[2], (answer) => answer.on("data", (data) => console.log(String(data))));
