// Read the input beside this file and leave a file behind: all a job needs to do.
const fs = require("node:fs");

const names = JSON.parse(fs.readFileSync("names.json", "utf8"));
const greetings = names.map((name) => `Hello, ${name}!`);
greetings.forEach((line) => console.log(line));
fs.writeFileSync("greetings.json", JSON.stringify({ node: process.version, greetings }, null, 2) + "\n");
