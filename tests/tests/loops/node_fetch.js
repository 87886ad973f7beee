// Node's fetch: a pool with an idle connection, other traffic, and one request that is never answered.
const [mute, healthy] = process.argv.slice(2);
const get = async (where, path) => (await fetch(`http://${where}${path}`)).text();
setInterval(() => get(healthy, "/"), 300);
Promise.all([get(mute, "/a"), get(mute, "/b")]).then(() => setTimeout(() => get(mute, "/hang"), 2000));
