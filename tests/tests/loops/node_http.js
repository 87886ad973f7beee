// Node's http: a pool with an idle connection, other traffic, and one request that is never answered.
const http = require("http");
const [mute, healthy] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true });
const get = (where, path) =>
  new Promise((done, failed) => {
    const request = http.get(`http://${where}${path}`, { agent }, (answer) => answer.resume().on("end", done));
    request.on("error", failed);
  });
setInterval(() => get(healthy, "/"), 300);
Promise.all([get(mute, "/a"), get(mute, "/b")]).then(() => setTimeout(() => get(mute, "/hang"), 2000));
