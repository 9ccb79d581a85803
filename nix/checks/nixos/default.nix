# Tests in virtual machines, for a machine with KVM. They were evaluated and not run where
# they were written.
#
#   nix build .#build-server.tests.server-builds      the server, as its module sets it up
#   nix build .#build-server.tests.client-fetches     and a client that fetches what it built
{ pkgs }:
let
  # For these tests alone; everybody can read it.
  secretKey = "build-server-1:P3c7ch/CVesbZcvzXgRnFzdia4QIqGBuJclsHSF32seEaY2N/bSpvVT0lHSaWqo6xocLva9KxaB4wCuuPf/p0g==";
  publicKey = "build-server-1:hGmNjf20qb1U9JR0mlqqOsaHC72vSsWgeMArrj3/6dI=";
  webhookSecret = "only-for-tests-0123456789";

  # A flake without inputs: there is no network.
  flake = pkgs.writeText "flake.nix" ''
    {
      outputs = _: {
        packages.${pkgs.stdenv.hostPlatform.system}.hello = derivation {
          name = "hello";
          system = "${pkgs.stdenv.hostPlatform.system}";
          builder = "/bin/sh";
          args = [ "-c" "echo hello from the server > $out" ];
        };
      };
    }
  '';

  server =
    { lib, ... }:
    {
      imports = [ ../../modules/nixos/build-server ];
      networking.hostName = "server";
      # There is no tailnet here: the network of the test is taken for it.
      services.tailscale.interfaceName = "eth1";
      environment.etc = {
        "secrets/webhook".text = webhookSecret;
        "secrets/cache-key".text = secretKey;
      };
      environment.systemPackages = [
        pkgs.git
        pkgs.jq
      ];
      services.build-server = {
        enable = true;
        allowedAddresses = [ "192.168.1.0/24" ];
        secrets.webhookSecretFile = "/etc/secrets/webhook";
        harmonia = {
          enable = true;
          keyFile = "/etc/secrets/cache-key";
          inherit publicKey;
        };
        settings = {
          github.api_url = "http://127.0.0.1:9";
          github.reconcile_every = "never";
          cache.required = true;
          repository = [
            {
              name = "owner/flake";
              url = "/srv/git/flake";
              targets = [ "packages.*" ];
            }
            {
              name = "owner/site";
              url = "/srv/git/site";
              builder = "command";
              command = [
                "sh"
                "-c"
                "test -f flake.nix && ! test -e /etc/secrets"
              ];
            }
          ];
        };
      };
      nix.settings.substituters = lib.mkForce [ ];
      virtualisation.memorySize = 2048;
      virtualisation.writableStore = true;
    };

  # Python, as the driver runs it.
  serverBuilds = ''
    import json

    def made(repository):
        path = f"/srv/git/{repository}"
        server.succeed(
            f"install -d -o build-server -g build-server {path}",
            f"install -o build-server ${flake} {path}/flake.nix",
            f"runuser -u build-server -- git -C {path} init -q -b dev",
            f"runuser -u build-server -- git -C {path} add flake.nix",
            f"runuser -u build-server -- git -C {path} -c user.name=t -c user.email=t@example.com commit -qm one",
        )

    def built(repository):
        body = json.dumps({"repo": f"owner/{repository}", "ref": "dev"})
        server.succeed(
            "curl --fail -s -X POST -H 'Content-Type: application/json' "
            f"-d '{body}' http://localhost:8000/build/trigger"
        )
        server.wait_until_succeeds(
            f"curl -s 'http://localhost:8000/builds?repo=owner/{repository}'"
            " | jq -e '.builds[0].state == \"succeeded\"'",
            timeout=180,
        )
        said = server.succeed(
            f"curl -s 'http://localhost:8000/builds?repo=owner/{repository}'"
        )
        return json.loads(said)["builds"][0]

    server.wait_for_unit("build-server.service")
    server.wait_for_unit("build-server-cache-key.service")
    server.wait_for_open_port(5000)
    server.succeed("grep -qF '${publicKey}' /var/lib/build-server-cache/public-key")
    for repository in ("flake", "site"):
        made(repository)
    # Bubblewrap and the cgroups work under the unit's own limits.
    build = built("flake")
    built("site")
    output = build["targets"][0]["outputs"]["out"]

    # Pages, and the stylesheet that they name, come from the installed package.
    page = server.succeed("curl --fail -s -H 'Accept: text/html' http://localhost:8000/")
    style = page.split('rel="stylesheet" href="')[1].split('"')[0]
    server.succeed(f"curl --fail -s http://localhost:8000{style}")

    # The one public route, and no way in without the secret.
    assert server.succeed(
        "curl -s -o /dev/null -w '%{http_code}' -X POST http://localhost:8010/webhook"
    ) == "401"
    assert server.succeed(
        "curl -s -o /dev/null -w '%{http_code}' http://localhost:8010/builds"
    ) == "404"

    # A reload is heard, a restart takes over the sockets, a crash ends in a new start.
    server.succeed("systemctl reload build-server.service")
    server.succeed("systemctl restart build-server.service")
    server.succeed("curl --fail -s http://localhost:8000/health")
    server.succeed("systemctl kill -s KILL build-server.service")
    server.wait_until_succeeds("curl --fail -s http://localhost:8000/health", timeout=60)
  '';
in
{
  server-builds = pkgs.testers.runNixOSTest {
    name = "server-builds";
    nodes = { inherit server; };
    testScript = serverBuilds;
  };

  client-fetches = pkgs.testers.runNixOSTest {
    name = "client-fetches";
    nodes = {
      inherit server;
      client =
        { lib, ... }:
        {
          imports = [ ../../modules/nixos/build-client.nix ];
          programs.build-client = {
            enable = true;
            server = "http://server:8000";
            inherit publicKey;
          };
          # cache.nixos.org cannot be reached, and is not what is tested.
          nix.settings.substituters = lib.mkForce [ "http://server:5000" ];
          nix.settings.experimental-features = [ "nix-command" ];
          virtualisation.writableStore = true;
        };
    };
    testScript = serverBuilds + ''
      client.wait_for_unit("multi-user.target")
      client.succeed("bs --json")
      client.fail(f"test -e {output}")
      client.succeed(f"nix-store --realise {output}")
      assert "hello from the server" in client.succeed(f"cat {output}")

      # A server that is gone costs seconds.
      server.shutdown()
      client.succeed("timeout 10 nix-store --realise /nix/store/00000000000000000000000000000000-none || test $? != 124")
    '';
  };
}
