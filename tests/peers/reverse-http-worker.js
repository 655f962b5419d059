'use strict'
// The npm package reverse-http as a worker of ours: one connection a life.
//
// The package itself knows neither client certificates nor Digest, and after its connection closed it dials again with
// the Authorization field of the first time. So this wrapper gives `tls.connect` the certificate, fetches the challenge
// with a request of its own, hands the package the finished field, and ends the process when the connection closes.
// Whoever started it starts it again.
//
//   node reverse-http-worker.js --host H --port P --path /-/reverse/POOL --cert F --key F --ca F
//        [--user U --password-file F] [--servername localhost] [--keep-alive-timeout MS]
//   Each option may come from the environment instead: --password-file is RHTTP_PASSWORD_FILE.
//
// Tells on stdout, one JSON object a line: {"event":"challenged"|"reversed"|"request"|"closed"|"refused"|"failed", ...}.
// Exit status: 0 the reversed connection closed, 1 refused or failed before that, 2 wrong usage.
//
// It serves: /stream?chunks=N&bytes=B&ms=M  N chunks of B bytes, M milliseconds apart, chunked
//            /big?bytes=N                   N bytes with a Content-Length
//            /die?bytes=N                   promises twice N bytes, sends N, then the process ends: a worker that dies
//            anything else                  {"method", "url", "length", "host", "identity"} of the request as JSON

const crypto = require('crypto')
const fs = require('fs')
const https = require('https')
const net = require('net')
const tls = require('tls')
const { parseArgs } = require('util')

const NAMES = ['host', 'port', 'path', 'cert', 'key', 'ca', 'user', 'password-file', 'servername', 'keep-alive-timeout']

function tell (event, facts) {
  // Synchronous on purpose: a line that explains an exit must not be lost with the process.
  fs.writeSync(1, JSON.stringify({ event, ...facts }) + '\n')
}

function leave (status, event, facts) {
  tell(event, facts)
  process.exit(status)
}

function readOptions () {
  const options = {}
  try {
    const declared = Object.fromEntries(NAMES.map(name => [name, { type: 'string' }]))
    Object.assign(options, parseArgs({ options: declared }).values)
  } catch (error) {
    usage(error.message)
  }
  for (const name of NAMES) {
    const fallback = process.env['RHTTP_' + name.toUpperCase().replaceAll('-', '_')]
    if (options[name] === undefined && fallback !== undefined) options[name] = fallback
  }
  for (const name of ['port', 'path', 'cert', 'key', 'ca']) {
    if (options[name] === undefined) usage(`--${name} is needed`)
  }
  if (options.user !== undefined && options['password-file'] === undefined) usage('--user needs --password-file')
  options.host ??= '127.0.0.1'
  // A TLS server name may not be an address; the certificate of a test gateway names localhost.
  options.servername ??= net.isIP(options.host) ? 'localhost' : options.host
  return options
}

function usage (message) {
  process.stderr.write(`reverse-http-worker: ${message}\n`)
  process.exit(2)
}

const options = readOptions()
const identity = {
  cert: fs.readFileSync(options.cert),
  key: fs.readFileSync(options.key),
  ca: fs.readFileSync(options.ca),
  servername: options.servername,
  ALPNProtocols: ['http/1.1']
}
const hash = (algorithm, text) => crypto.createHash(algorithm).update(text).digest('hex')

// The parameters of the first Digest challenge that we can answer: name="value" or name=value, after the scheme.
function readChallenge (fields) {
  for (const field of fields) {
    if (!/^digest\s/i.test(field)) continue
    const parameters = {}
    for (const [, name, quoted, token] of field.slice(6).matchAll(/([\w-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))/g)) {
      parameters[name.toLowerCase()] = quoted ?? token
    }
    const algorithm = { 'SHA-256': 'sha256', MD5: 'md5' }[(parameters.algorithm ?? 'MD5').toUpperCase()]
    if (algorithm && parameters.nonce) return { ...parameters, hash: algorithm }
  }
  return null
}

function answerChallenge (challenge, method, uri) {
  const password = fs.readFileSync(options['password-file'], 'utf8').split('\n', 1)[0].replace(/\r$/, '')
  const cnonce = crypto.randomBytes(12).toString('hex')
  const nc = '00000001'
  const ha1 = hash(challenge.hash, `${options.user}:${challenge.realm}:${password}`)
  const ha2 = hash(challenge.hash, `${method}:${uri}`)
  const response = hash(challenge.hash, [ha1, challenge.nonce, nc, cnonce, 'auth', ha2].join(':'))
  const algorithm = challenge.algorithm ? `, algorithm=${challenge.algorithm}` : ''
  const opaque = challenge.opaque !== undefined ? `, opaque="${challenge.opaque}"` : ''
  return `Digest username="${options.user}", realm="${challenge.realm}", nonce="${challenge.nonce}", uri="${uri}"` +
    `${algorithm}, response="${response}", qop=auth, nc=${nc}, cnonce="${cnonce}"${opaque}`
}

// Asks once without credentials, on a connection of its own that ends with the answer.
function fetchChallenge (then) {
  const request = https.request({
    ...identity,
    host: options.host,
    port: options.port,
    path: options.path,
    method: 'POST',
    agent: false,
    headers: { Connection: 'Upgrade', Upgrade: 'PTTH/1.0', 'Content-Length': 0 }
  })
  request.on('response', response => {
    request.destroy()
    const fields = []
    for (let i = 0; i < response.rawHeaders.length; i += 2) {
      if (response.rawHeaders[i].toLowerCase() === 'www-authenticate') fields.push(response.rawHeaders[i + 1])
    }
    const challenge = response.statusCode === 401 ? readChallenge(fields) : null
    if (!challenge) leave(1, 'refused', { status: response.statusCode })
    tell('challenged', { algorithm: challenge.algorithm ?? 'MD5' })
    then(answerChallenge(challenge, 'POST', options.path))
  })
  request.on('upgrade', response => leave(1, 'refused', { status: response.statusCode, why: 'no challenge' }))
  request.on('error', error => { if (!request.destroyed) leave(1, 'failed', { why: error.message }) })
  request.end()
}

function serve (request, response) {
  const url = new URL(request.url, 'http://worker.invalid')
  const number = (name, fallback) => Number(url.searchParams.get(name) ?? fallback)
  let length = 0
  request.on('data', chunk => { length += chunk.length })
  request.on('end', () => {
    tell('request', { method: request.method, url: request.url, length })
    if (url.pathname === '/stream') return stream(response, number('chunks', 3), number('bytes', 16), number('ms', 20))
    if (url.pathname === '/big') return big(response, number('bytes', 1 << 20))
    if (url.pathname === '/die') return die(response, number('bytes', 16))
    const answer = JSON.stringify({
      method: request.method,
      url: request.url,
      length,
      host: request.headers.host,
      identity: request.headers['rhttp-identity']
    })
    response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(answer) })
    response.end(answer)
  })
}

function stream (response, chunks, bytes, ms) {
  response.writeHead(200, { 'Content-Type': 'application/octet-stream' })
  const next = left => {
    if (left === 0) return response.end()
    response.write(Buffer.alloc(bytes, 's'))
    setTimeout(next, ms, left - 1)
  }
  next(chunks)
}

function big (response, bytes) {
  const piece = Buffer.alloc(65536, 'b')
  response.writeHead(200, { 'Content-Type': 'application/octet-stream', 'Content-Length': bytes })
  const more = () => {
    while (bytes > 0) {
      const part = piece.subarray(0, Math.min(bytes, piece.length))
      bytes -= part.length
      if (!response.write(part)) return response.once('drain', more)
    }
    response.end()
  }
  more()
}

function die (response, bytes) {
  response.writeHead(200, { 'Content-Type': 'application/octet-stream', 'Content-Length': 2 * bytes })
  response.write(Buffer.alloc(bytes, 'd'), () => leave(1, 'failed', { why: 'told to die' }))
}

function reverse (authorization) {
  let reversed = false
  let dials = 0
  const connect = tls.connect
  tls.connect = (port, host, given) => {
    // The package dials again as soon as its connection closed: that is the end of this life.
    if (dials++ > 0) leave(reversed ? 0 : 1, reversed ? 'closed' : 'refused', {})
    return connect.call(tls, port, host, { ...given, ...identity })
  }
  const reverseHttp = require('reverse-http')
  const server = reverseHttp({
    host: options.host,
    port: options.port,
    path: options.path,
    tls: true,
    headers: authorization ? { Authorization: authorization } : {}
  }, serve)
  if (options['keep-alive-timeout'] !== undefined) server.keepAliveTimeout = Number(options['keep-alive-timeout'])
  server.on('connection', () => {
    reversed = true
    tell('reversed', {})
  })
  server.on('error', error => {
    if (reversed) leave(0, 'closed', { why: error.message })
    leave(1, 'refused', { why: error.message })
  })
}

if (options.user === undefined) reverse(null)
else fetchChallenge(reverse)
