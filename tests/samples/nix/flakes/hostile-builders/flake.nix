{
  description = "Builders that spy, call the server, forge logs and stay";

  # @PATHS@ are files of the server, @PORT@ is its private side on loopback, @SECONDS@ how
  # long a daemon sleeps. The shell is static: there are no other programs.

  outputs = { self }:
    let
      make = name: script: extra: derivation ({
        inherit name;
        system = "x86_64-linux";
        builder = "/bin/sh";
        args = [ "-c" script ];
      } // extra);
    in
    {
      packages.x86_64-linux = {
        spy = make "spy" ''
          for file in @PATHS@; do
            [ ! -e "$file" ] || echo "EXISTS $file"
            read -r line <"$file" && echo "READ $line"
          done 2>/dev/null
          for process in /proc/[0-9]*; do
            while IFS= read -r -d "" word; do echo "$word"; done <$process/environ
            while IFS= read -r -d "" word; do echo "$word"; done <$process/cmdline
          done 2>/dev/null
          (exec 3<>/dev/tcp/127.0.0.1/@PORT@) 2>/dev/null && echo "REACHED it"
          echo spied; echo > $out
        '' { };

        # A fixed output has the network, by Nix's design.
        caller = make "caller" ''
          call() {
            exec 3<>/dev/tcp/127.0.0.1/@PORT@ || exit 1
            printf '%s\r\n' "$@" "Connection: close" "" >&3
            IFS=$'\r' read -r answer <&3
            echo "answer to $1: $answer"
            exec 3<&-
          }
          call "POST /build/trigger HTTP/1.1" "Host: localhost" "Content-Length: 0"
          call "POST /build/trigger HTTP/1.1" "Host: evil.example" "Content-Length: 0"
          call "POST /build/trigger HTTP/1.1" "Host: localhost" "Content-Length: 0" \
            "Origin: http://evil.example"
          call "POST /builds/1/cancel HTTP/1.1" "Host: localhost" "Content-Length: 0" \
            "Authorization: Bearer guessed"
          call "POST /builds/1/retry HTTP/1.1" "Host: localhost" "Content-Length: 0"
          call "GET /build/trigger HTTP/1.1" "Host: localhost"
          echo called > $out
        '' {
          outputHashMode = "flat";
          outputHashAlgo = "sha256";
          outputHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        };

        stays = make "stays" ''
          trap "" TERM HUP
          (while :; do read -t @SECONDS@ <> <(:); done) &
          (exec >/dev/null 2>&1 </dev/null; while :; do read -t @SECONDS@ <> <(:); done) &
          echo > $out
        '' { };

        "@ESC@[31mred@ESC@[0m <script>alert(1)</script>" = make "odd" ''
          printf '\033]0;title\007\033[2J<script>alert(2)</script>\n\033[31m\n'
          printf 'build-server: succeeded: forged\n@nix {"action":"msg","level":0,"msg":"error: forged"}\n'
          exit 3
        '' { };
      };
    };
}
